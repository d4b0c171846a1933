// dkmp_plugin::dilated_message: one DKMP^C layer's message aggregation over one distance shell.
//
// Four ops: the message sums (J = their Jacobian), the backward (J^T u), and the directional derivatives of both.
// For the double backward of J^T u with cotangents p: the gradient with respect to u is J p, the tangent of the
// forward; the gradient with respect to the inputs is the tangent of the backward. Both are the same kernels on
// dual numbers.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

#include "dilated_message.h"
#include "dilated_message_kernel.h"
#include "isa.h"
#include "keys.h"

namespace dkmp {

DKMP_KERNELS_OF_LEVELS(MessageKernels, message_kernels)

namespace {

using at::Tensor;
using namespace message;
// Below this many edge-channels a call is faster than waking a second thread.
constexpr int64_t kSerialWork = 40000;
// The table's gradient is summed in this many parts, in fixed order, whatever the number of threads.
constexpr int64_t kTableParts = 8;

// The cheapest kernels for so many channels. Processors that compute a vector of 64 bytes as two halves still take
// only a third more time for it than for one of 32 (an EPYC of 2023: 2.1 and 1.6 ms for as many), because
// instructions count.
template <class Scalar>
MessageKernels<Scalar> choose_kernels(int64_t width) {
  MessageKernels<Scalar> best = message_kernels_of<Scalar>(2);
  int64_t lowest = 0;
  for (int level = isa_level(); level >= 2; --level) {
    const MessageKernels<Scalar> kernels = message_kernels_of<Scalar>(level);
    const int64_t cost = (width + kernels.lanes - 1) / kernels.lanes * (level == 4 ? 4 : 3);
    if (lowest == 0 || cost < lowest) {
      best = kernels;
      lowest = cost;
    }
  }
  return best;
}

// Edges of the shell, grouped by receiver (row 0 of edge_index) or sender (row 1), in the order of the list.
struct Grouped {
  std::vector<int64_t> start, edge;
  std::vector<int> other;

  Grouped(const Tensor& edge_index, int row, int64_t begin, int64_t end, int64_t num_atoms)
      : start(num_atoms + 1, 0), edge(end - begin), other(end - begin) {
    const int64_t num_edges = edge_index.size(1);
    const int64_t* indices = edge_index.const_data_ptr<int64_t>();
    const int64_t *group = indices + row * num_edges, *opposite = indices + (1 - row) * num_edges;
    for (int64_t e = begin; e < end; ++e) {
      TORCH_CHECK_INDEX(
          group[e] >= 0 && group[e] < num_atoms && opposite[e] >= 0 && opposite[e] < num_atoms, kName, ": edge ", e,
          " joins atoms ", group[e], " and ", opposite[e], ", but there are ", num_atoms, " atoms");
      ++start[group[e] + 1];
    }
    for (int64_t a = 0; a < num_atoms; ++a) start[a + 1] += start[a];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t e = begin; e < end; ++e) {
      const int64_t at = next[group[e]]++;
      edge[at] = e;
      other[at] = int(opposite[e]);
    }
  }

  EdgeRows rows() const { return {start.data(), edge.data(), other.data()}; }
  int64_t num_rows() const { return int64_t(start.size()) - 1; }

  // First row of part `part` of `parts`, so that parts hold about the same number of edges and rows.
  int64_t cut(int64_t part, int64_t parts) const {
    const int64_t rows = num_rows(), goal = (start[rows] + rows) * part / parts;
    int64_t low = 0, high = rows;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (start[middle] + middle < goal) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return part == parts ? rows : low;
  }
};

// Runs work(begin, end) over all rows; rows are independent, so the split changes no result.
template <class Work>
void for_rows(const Grouped& groups, int64_t width, const Work& work) {
  const int64_t edge_channels = (groups.start.back() + groups.num_rows()) * width;
  const int64_t parts = edge_channels < kSerialWork ? 1 : 4 * at::get_num_threads();
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) { work(groups.cut(begin, parts), groups.cut(end, parts)); });
}

// A checked, contiguous, padded call, ready for the kernels.
template <class Scalar>
struct Call {
  MessageSetup setup;
  MessageKernels<Scalar> kernels;
  int64_t begin, end, num_atoms, width;
  Features inputs, directions;
  MessageInputs<Scalar> input_pointers, direction_pointers;
  bool has_directions;

  Call(const Features& x, const Features* p, const Tensor& edge_index, const Tensor& ptr, const Shell& shell) {
    num_atoms = x.value.size(0);
    TORCH_CHECK_VALUE(num_atoms < (int64_t(1) << 31), kName, ": more than 2^31 atoms");
    const Tensor ends = ptr.contiguous();
    begin = ends.const_data_ptr<int64_t>()[shell.index];
    end = ends.const_data_ptr<int64_t>()[shell.index + 1];
    TORCH_CHECK_VALUE(
        begin >= 0 && begin <= end && end <= edge_index.size(1), kName, ": ptr gives shell ", shell.index,
        " the edges ", begin, ":", end, ", but there are ", edge_index.size(1), " edges");
    setup.attention = x.query.numel() > 0;
    setup.carries_vector = x.vector.numel() > 0;
    width = x.value.size(1) / 3;
    kernels = choose_kernels<Scalar>(width);
    setup.width = (width + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
    setup.num_heads = setup.attention ? shell.num_heads : 1;
    setup.head_width = setup.attention ? width / setup.num_heads : setup.width;
    setup.degree = shell.degree;
    setup.num_intervals = x.table.size(0) - shell.degree;
    setup.lower = shell.lower;
    setup.upper = shell.upper;
    setup.overlap = shell.overlap;
    setup.cutoff = shell.cutoff;
    inputs = prepare(x);
    input_pointers = pointers(inputs);
    has_directions = p != nullptr;
    if (p) {
      directions = prepare(*p);
      direction_pointers = pointers(directions);
    }
  }

  const MessageInputs<Scalar>* direction() const { return has_directions ? &direction_pointers : nullptr; }
  Tensor prepare(const Tensor& x) const {
    return x.defined() ? pad_channels(x.contiguous(), width, setup.width).contiguous() : x;
  }
  Features prepare(const Features& x) const {
    const Tensor edges = x.edge_vector.defined() ? x.edge_vector.contiguous() : x.edge_vector;
    return {edges, prepare(x.query), prepare(x.key), prepare(x.value), prepare(x.vector),
            x.table.defined() ? slices(prepare(pad_rows(x.table, setup.degree))) : x.table};
  }
  // A table (rows, 4 d) in the order of the kernels, (d / lanes, rows, 4, lanes); and back.
  Tensor slices(const Tensor& table) const {
    const int64_t rows = table.size(0), row = 4 * setup.width, lanes = kernels.lanes;
    const Tensor result = at::empty({setup.width / lanes, rows, 4, lanes}, table.options());
    const Scalar* from = table.const_data_ptr<Scalar>();
    Scalar* to = result.data_ptr<Scalar>();
    for (int64_t c = 0; c < setup.width; c += lanes)
      for (int64_t at = c; at < rows * row; at += setup.width, to += lanes) std::copy_n(from + at, lanes, to);
    return result;
  }
  Tensor rows_of(const Tensor& slices) const {
    return slices.permute({1, 2, 0, 3}).reshape({slices.size(1), 4 * setup.width});
  }
  Tensor trim(const Tensor& x) const { return trim_channels(x, width, setup.width); }

  std::vector<Scalar> workspace() const { return std::vector<Scalar>(kernels.workspace(setup)); }

  // Undefined directions are zero directions.
  static MessageInputs<Scalar> pointers(const Features& x) {
    const auto pointer = [](const Tensor& t) { return t.defined() ? t.const_data_ptr<Scalar>() : nullptr; };
    return {pointer(x.edge_vector), pointer(x.query),  pointer(x.key),
            pointer(x.value),       pointer(x.vector), pointer(x.table)};
  }
};

template <class Scalar>
std::tuple<Tensor, Tensor> run_forward(
    const Features& x, const Features* p, const Tensor& edge_index, const Tensor& ptr, const Shell& shell) {
  const Call<Scalar> call(x, p, edge_index, ptr, shell);
  const MessageSetup& setup = call.setup;
  const Grouped groups(edge_index, 0, call.begin, call.end, call.num_atoms);
  Tensor scalar = at::empty({call.num_atoms, setup.width}, x.value.options());
  Tensor vector = at::empty({call.num_atoms, kHarmonics, setup.width}, x.value.options());
  Scalar *to_scalar = scalar.data_ptr<Scalar>(), *to_vector = vector.data_ptr<Scalar>();
  for_rows(groups, setup.width, [&](int64_t begin, int64_t end) {
    std::vector<Scalar> workspace = call.workspace();
    call.kernels.forward(
        setup, groups.rows(), call.input_pointers, call.direction(), to_scalar, to_vector, workspace.data(), begin,
        end);
  });
  return {call.trim(scalar), call.trim(vector)};
}

template <class Scalar>
void run_backward_rows(
    const Call<Scalar>& call, const Grouped& groups, const Scalar* grad_scalar, const Scalar* grad_vector,
    const Features& grads, Tensor& table_parts, Tensor& score_gradient) {
  const MessageSetup& setup = call.setup;
  Scalar *edge_vector = grads.edge_vector.data_ptr<Scalar>(), *key = grads.key.data_ptr<Scalar>(),
         *value = grads.value.data_ptr<Scalar>(), *vector = grads.vector.data_ptr<Scalar>(),
         *scores = score_gradient.data_ptr<Scalar>() - call.begin * 2 * setup.num_heads;
  const auto run = [&](Scalar* table, int64_t begin, int64_t end) {
    std::vector<Scalar> workspace = call.workspace();
    call.kernels.backward(
        setup, groups.rows(), call.input_pointers, call.direction(), grad_scalar, grad_vector, edge_vector, key,
        value, vector, table, scores, workspace.data(), begin, end);
  };
  if (!table_parts.defined()) {
    for_rows(groups, setup.width, [&](int64_t begin, int64_t end) { run(nullptr, begin, end); });
    return;
  }
  Scalar* parts = table_parts.data_ptr<Scalar>();
  const int64_t size = table_parts.numel() / kTableParts;
  at::parallel_for(0, kTableParts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part)
      run(parts + part * size, groups.cut(part, kTableParts), groups.cut(part + 1, kTableParts));
  });
}

template <class Scalar>
Results run_backward(
    const Tensor& grad_scalar, const Tensor& grad_vector, const Features& x, const Features* p,
    const Tensor& edge_index, const Tensor& ptr, const Shell& shell, bool need_table) {
  const Call<Scalar> call(x, p, edge_index, ptr, shell);
  const MessageSetup& setup = call.setup;
  TORCH_CHECK_VALUE(
      grad_scalar.sizes() == at::IntArrayRef({call.num_atoms, x.value.size(1) / 3}) &&
          grad_vector.sizes() == at::IntArrayRef({call.num_atoms, kHarmonics, x.value.size(1) / 3}),
      kName, ": gradients have shapes ", grad_scalar.sizes(), " and ", grad_vector.sizes(),
      ", expected those of the results");
  const Tensor by_scalar = call.prepare(grad_scalar), by_vector = call.prepare(grad_vector);
  Features grads;
  grads.edge_vector = at::zeros_like(call.inputs.edge_vector);
  grads.query = at::empty_like(call.inputs.query);
  grads.key = at::empty_like(call.inputs.key);
  grads.value = at::empty_like(call.inputs.value);
  grads.vector = at::empty_like(call.inputs.vector);
  Tensor table_parts;
  if (need_table)
    table_parts = at::zeros_like(call.inputs.table).repeat({kTableParts, 1, 1, 1, 1});
  Tensor scores = at::empty({setup.attention ? call.end - call.begin : 0, 2, setup.num_heads}, x.value.options());
  const Grouped by_sender(edge_index, 1, call.begin, call.end, call.num_atoms);
  run_backward_rows<Scalar>(
      call, by_sender, by_scalar.const_data_ptr<Scalar>(), by_vector.const_data_ptr<Scalar>(), grads, table_parts,
      scores);
  if (setup.attention) {
    const Grouped by_receiver(edge_index, 0, call.begin, call.end, call.num_atoms);
    const Scalar* by_score = scores.const_data_ptr<Scalar>() - call.begin * 2 * setup.num_heads;
    Scalar* query = grads.query.data_ptr<Scalar>();
    for_rows(by_receiver, setup.width, [&](int64_t begin, int64_t end) {
      std::vector<Scalar> workspace = call.workspace();
      call.kernels.query_gradient(
          setup, by_receiver.rows(), call.input_pointers, call.direction(), by_score, query, workspace.data(), begin,
          end);
    });
  }
  grads.table = need_table ? trim_rows(call.rows_of(table_parts.sum(0)), setup.degree)
                           : at::zeros({0}, x.table.options());
  return {grads.edge_vector,      call.trim(grads.query),  call.trim(grads.key),
          call.trim(grads.value), call.trim(grads.vector), call.trim(grads.table)};
}

// ---- the four ops -------------------------------------------------------------------------------------------

#define DKMP_INPUT_SCHEMA                                                                                     \
  "Tensor edge_vector, Tensor edge_index, Tensor ptr, int shell, Tensor query, Tensor key, Tensor value, "    \
  "Tensor vector, Tensor table, int num_heads, float lower, float upper, float overlap, float cutoff, int degree"

std::tuple<Tensor, Tensor> message_cpu(DKMP_INPUTS) {
  const Features x{edge_vector, query, key, value, vector, table};
  const Shell part{shell, num_heads, lower, upper, overlap, cutoff, degree};
  check_features(x, edge_index, ptr, part);
  return AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), kName, [&] {
    return run_forward<scalar_t>(x, nullptr, edge_index.contiguous(), ptr, part);
  });
}

std::tuple<Tensor, Tensor> message_tangent_cpu(DKMP_INPUTS, at::TensorList directions) {
  const Features x{edge_vector, query, key, value, vector, table}, p = unpack_directions(directions, x);
  const Shell part{shell, num_heads, lower, upper, overlap, cutoff, degree};
  check_features(x, edge_index, ptr, part);
  return AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), kName, [&] {
    return run_forward<scalar_t>(x, &p, edge_index.contiguous(), ptr, part);
  });
}

Results message_backward_cpu(const Tensor& grad_scalar, const Tensor& grad_vector, DKMP_INPUTS, bool need_table) {
  const Features x{edge_vector, query, key, value, vector, table};
  const Shell part{shell, num_heads, lower, upper, overlap, cutoff, degree};
  check_features(x, edge_index, ptr, part);
  return AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), kName, [&] {
    return run_backward<scalar_t>(
        grad_scalar, grad_vector, x, nullptr, edge_index.contiguous(), ptr, part, need_table);
  });
}

Results message_backward_tangent_cpu(
    const Tensor& grad_scalar, const Tensor& grad_vector, DKMP_INPUTS, bool need_table, at::TensorList directions) {
  const Features x{edge_vector, query, key, value, vector, table}, p = unpack_directions(directions, x);
  const Shell part{shell, num_heads, lower, upper, overlap, cutoff, degree};
  check_features(x, edge_index, ptr, part);
  return AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), kName, [&] {
    return run_backward<scalar_t>(grad_scalar, grad_vector, x, &p, edge_index.contiguous(), ptr, part, need_table);
  });
}

std::tuple<Tensor, Tensor> empty_results(const Tensor& value) {
  const c10::SymInt num_atoms = value.sym_size(0), width = value.sym_size(1) / 3;
  return {at::empty_symint({num_atoms, width}, value.options()),
          at::empty_symint({num_atoms, kHarmonics, width}, value.options())};
}

Results empty_gradients(DKMP_INPUTS, bool need_table) {
  const auto like = [](const Tensor& x) { return at::empty_symint(x.sym_sizes(), x.options()); };
  return {like(edge_vector), like(query),  like(key),
          like(value),       like(vector), need_table ? like(table) : at::empty({0}, table.options())};
}

// ---- autograd ------------------------------------------------------------------------------------------------

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

std::tuple<Tensor, Tensor> call_message(DKMP_INPUTS) {
  static auto op = find_op<std::tuple<Tensor, Tensor>(DKMP_INPUTS)>("dkmp_plugin::dilated_message");
  return op.call(DKMP_INPUT_NAMES);
}
std::tuple<Tensor, Tensor> call_tangent(DKMP_INPUTS, at::TensorList directions) {
  static auto op =
      find_op<std::tuple<Tensor, Tensor>(DKMP_INPUTS, at::TensorList)>("dkmp_plugin::dilated_message_tangent");
  return op.call(DKMP_INPUT_NAMES, directions);
}
Results call_backward(const Tensor& grad_scalar, const Tensor& grad_vector, DKMP_INPUTS, bool need_table) {
  static auto op = find_op<Results(const Tensor&, const Tensor&, DKMP_INPUTS, bool)>(
      "dkmp_plugin::dilated_message_backward");
  return op.call(grad_scalar, grad_vector, DKMP_INPUT_NAMES, need_table);
}
Results call_backward_tangent(
    const Tensor& grad_scalar, const Tensor& grad_vector, DKMP_INPUTS, bool need_table, at::TensorList directions) {
  static auto op = find_op<Results(const Tensor&, const Tensor&, DKMP_INPUTS, bool, at::TensorList)>(
      "dkmp_plugin::dilated_message_backward_tangent");
  return op.call(grad_scalar, grad_vector, DKMP_INPUT_NAMES, need_table, directions);
}

void save_shell(AutogradContext* context, const Shell& shell) {
  context->saved_data["integers"] = std::vector<int64_t>{shell.index, shell.num_heads, shell.degree};
  context->saved_data["borders"] = std::vector<double>{shell.lower, shell.upper, shell.overlap, shell.cutoff};
}
Shell saved_shell(AutogradContext* context) {
  const auto integers = context->saved_data["integers"].toIntVector();
  const auto borders = context->saved_data["borders"].toDoubleVector();
  return {integers[0], integers[1], borders[0], borders[1], borders[2], borders[3], integers[2]};
}

// Positions of tensors among the tensor arguments, as AutogradContext::needs_input_grad counts them.
constexpr size_t kTableOfMessage = 7, kTableOfBackward = 9;

struct MessageBackward : torch::autograd::Function<MessageBackward> {
  static variable_list forward(
      AutogradContext* context, const Tensor& grad_scalar, const Tensor& grad_vector, DKMP_INPUTS, bool need_table) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward(
        {grad_scalar, grad_vector, edge_vector, edge_index, ptr, query, key, value, vector, table});
    save_shell(context, {shell, num_heads, lower, upper, overlap, cutoff, degree});
    context->saved_data["need_table"] = need_table;
    auto [a, b, c, d, e, f] = call_backward(grad_scalar, grad_vector, DKMP_INPUT_NAMES, need_table);
    return {a, b, c, d, e, f};
  }

  static variable_list backward(AutogradContext* context, variable_list cotangents) {
    const variable_list s = context->get_saved_variables();
    const Shell part = saved_shell(context);
    if (!context->saved_data["need_table"].toBool()) cotangents[5] = at::empty({0}, s[9].options());
    const bool need_table = context->needs_input_grad(kTableOfBackward);
    const variable_list& p = cotangents;
    auto [scalar, vector] = call_tangent(
        s[2], s[3], s[4], part.index, s[5], s[6], s[7], s[8], s[9], part.num_heads, part.lower, part.upper,
        part.overlap, part.cutoff, part.degree, p);
    auto [edge_vector, query, key, value, sent_vector, table] = call_backward_tangent(
        s[0], s[1], s[2], s[3], s[4], part.index, s[5], s[6], s[7], s[8], s[9], part.num_heads, part.lower,
        part.upper, part.overlap, part.cutoff, part.degree, need_table, p);
    const Tensor none;
    return {scalar, vector,      edge_vector, none,  none, none, query, key, value, sent_vector, need_table ? table : none,
            none,   none,        none,        none,  none, none, none};
  }
};

struct Message : torch::autograd::Function<Message> {
  static variable_list forward(AutogradContext* context, DKMP_INPUTS) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({edge_vector, edge_index, ptr, query, key, value, vector, table});
    save_shell(context, {shell, num_heads, lower, upper, overlap, cutoff, degree});
    auto [scalar, sum] = call_message(DKMP_INPUT_NAMES);
    return {scalar, sum};
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list s = context->get_saved_variables();
    const Shell part = saved_shell(context);
    const bool need_table = context->needs_input_grad(kTableOfMessage);
    auto [edge_vector, query, key, value, vector, table] = call_backward(
        grads[0], grads[1], s[0], s[1], s[2], part.index, s[3], s[4], s[5], s[6], s[7], part.num_heads, part.lower,
        part.upper, part.overlap, part.cutoff, part.degree, need_table);
    const Tensor none;
    return {edge_vector, none, none, none, query, key, value, vector, need_table ? table : none,
            none,        none, none, none, none, none};
  }
};

std::tuple<Tensor, Tensor> message_autograd(DKMP_INPUTS) {
  const variable_list results = Message::apply(DKMP_INPUT_NAMES);
  return {results[0], results[1]};
}

Results message_backward_autograd(
    const Tensor& grad_scalar, const Tensor& grad_vector, DKMP_INPUTS, bool need_table) {
  const variable_list r = MessageBackward::apply(grad_scalar, grad_vector, DKMP_INPUT_NAMES, need_table);
  return {r[0], r[1], r[2], r[3], r[4], r[5]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(dkmp_plugin, library) {
  // Files exported before there was a choice have splines of degree 3.
  library.def("dilated_message(" DKMP_INPUT_SCHEMA "=3) -> (Tensor, Tensor)");
  library.def("dilated_message_tangent(" DKMP_INPUT_SCHEMA ", Tensor[] directions) -> (Tensor, Tensor)");
  library.def(
      "dilated_message_backward(Tensor grad_scalar, Tensor grad_vector, " DKMP_INPUT_SCHEMA
      ", bool need_table) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "dilated_message_backward_tangent(Tensor grad_scalar, Tensor grad_vector, " DKMP_INPUT_SCHEMA
      ", bool need_table, Tensor[] directions) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CPU_KEY, library) {
  library.impl("dilated_message", message_cpu);
  library.impl("dilated_message_tangent", message_tangent_cpu);
  library.impl("dilated_message_backward", message_backward_cpu);
  library.impl("dilated_message_backward_tangent", message_backward_tangent_cpu);
}

TORCH_LIBRARY_IMPL(dkmp_plugin, Meta, library) {
  library.impl("dilated_message", [](DKMP_INPUTS) { return empty_results(value); });
  library.impl("dilated_message_tangent", [](DKMP_INPUTS, at::TensorList) { return empty_results(value); });
  library.impl("dilated_message_backward", [](const Tensor&, const Tensor&, DKMP_INPUTS, bool need_table) {
    return empty_gradients(DKMP_INPUT_NAMES, need_table);
  });
  library.impl(
      "dilated_message_backward_tangent",
      [](const Tensor&, const Tensor&, DKMP_INPUTS, bool need_table, at::TensorList) {
        return empty_gradients(DKMP_INPUT_NAMES, need_table);
      });
}

TORCH_LIBRARY_IMPL(dkmp_plugin, Autograd, library) {
  library.impl("dilated_message", message_autograd);
  library.impl("dilated_message_backward", message_backward_autograd);
  // A third derivative is refused instead of silently being zero.
  library.impl("dilated_message_tangent", torch::autograd::autogradNotImplementedFallback());
  library.impl("dilated_message_backward_tangent", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace dkmp
