// dkmp_plugin::dilated_attention: softmax attention of every atom over its own list of neighbours.
//
// Four ops: the result (J = its Jacobian), the backward (J^T u), and the directional derivatives of both. For the
// double backward of J^T u with cotangents p: the gradient with respect to u is J p, the tangent of the forward; the
// gradient with respect to the inputs is the tangent of the backward. Both are the same kernels on dual numbers.
// Nothing of shape (N, K, H, D) or (N, K, H) is ever stored: weights are computed again where they are needed.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <atomic>
#include <limits>
#include <memory>
#include <vector>

#include "cache_line.h"
#include "dilated_attention_call.h"
#include "dilated_attention_kernel.h"
#include "huge_pages.h"
#include "isa.h"
#include "keys.h"
#include "neighbor_lists.h"
#include "visiting_order.h"

namespace dkmp {

DKMP_KERNELS_OF_LEVELS(AttentionKernels, attention_kernels)

namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Gradients = AttentionGradients;
using Features = AttentionFeatures;
constexpr const char* kName = kAttentionName;
// Below this many edge-channels a call is faster than waking a second thread.
constexpr int64_t kSerialWork = 40000;

// Keys and values of this many bytes stay in cache whatever the order of the atoms.
constexpr int64_t kCachedBytes = 2 << 20;

// The widest kernel whose lanes divide a head; heads of odd width are padded to the narrowest.
template <class Scalar>
AttentionKernels<Scalar> choose_kernels(int64_t head_width) {
  for (int level = isa_level(); level > 2; --level) {
    const AttentionKernels<Scalar> kernels = attention_kernels_of<Scalar>(level);
    if (head_width % kernels.lanes == 0) return kernels;
  }
  return attention_kernels_of<Scalar>(2);
}

// A checked, contiguous, padded call, ready for the kernels.
template <class Scalar>
struct Call {
  AttentionSetup setup;
  AttentionKernels<Scalar> kernels;
  int64_t num_atoms, head_width, row;
  Features inputs, directions;
  Tensor neighbors;
  AttentionInputs<Scalar> input_pointers, direction_pointers;
  std::shared_ptr<const Visits> visits;
  bool has_directions;

  Call(const Features& x, const Features* p, const Tensor& neighbors_, double scale) {
    check_features(x, neighbors_);
    num_atoms = x.query.size(0);
    head_width = x.query.size(2);
    neighbors = neighbors_.contiguous();
    TORCH_CHECK_VALUE(
        num_atoms < std::numeric_limits<int32_t>::max() &&
            neighbors.numel() < int64_t(std::numeric_limits<uint32_t>::max()),
        kName, ": neighbors has shape ", neighbors.sizes(),
        "; fewer than 2^31 atoms and 2^32 entries can be served, split the call");
    const int64_t narrow = attention_kernels_of<Scalar>(2).lanes;
    setup.num_atoms = num_atoms;
    setup.num_heads = x.query.size(1);
    setup.head_width = (head_width + narrow - 1) / narrow * narrow;
    setup.num_neighbors = neighbors.size(1);
    const bool wide = neighbors.scalar_type() == at::kLong;
    setup.wide_neighbors = wide ? neighbors.const_data_ptr<int64_t>() : nullptr;
    setup.narrow_neighbors = wide ? nullptr : neighbors.const_data_ptr<int32_t>();
    setup.scale = scale;
    row = setup.num_heads * setup.head_width;
    kernels = choose_kernels<Scalar>(setup.head_width);
    inputs = prepare(x);
    input_pointers = pointers(inputs);
    has_directions = p != nullptr;
    if (p) {
      check_like(p->query, x.query, "the direction of query");
      check_like(p->key, x.key, "the direction of key");
      check_like(p->value, x.value, "the direction of value");
      check_like(p->bias, x.bias, "the direction of bias");
      directions = prepare(*p);
      direction_pointers = pointers(directions);
    }
    if (neighbors.numel() > 0 && 2 * num_atoms * row * int64_t(sizeof(Scalar)) > kCachedBytes)
      visits = wide ? recent_visits(kName, setup.wide_neighbors, num_atoms, setup.num_neighbors)
                    : recent_visits(kName, setup.narrow_neighbors, num_atoms, setup.num_neighbors);
    setup.order = visits && !visits->order.empty() ? visits->order.data() : nullptr;
    setup.anew_start = visits ? visits->start.data() : nullptr;
    setup.anew = visits ? visits->anew.data() : nullptr;
  }
  Call(const Call&) = delete;

  const AttentionInputs<Scalar>* direction() const { return has_directions ? &direction_pointers : nullptr; }
  // Heads get zero channels up to a width the kernels can take; and lose them again.
  Tensor pad(const Tensor& x) const {
    if (!x.defined()) return x;
    if (head_width == setup.head_width) return x.contiguous();
    return at::constant_pad_nd(x, {0, setup.head_width - head_width}).contiguous();
  }
  Tensor trim(const Tensor& x) const {
    return head_width == setup.head_width ? x : x.narrow(-1, 0, head_width).contiguous();
  }
  Tensor empty_rows() const {
    return in_huge_pages(at::empty({num_atoms, setup.num_heads, setup.head_width}, inputs.query.options()));
  }

  // Runs work(workspace, begin, end) over all rows; rows are independent, so the split changes no result. Refuses the
  // call where work returns false.
  template <class Work>
  void for_rows(const Work& work) const {
    const int64_t channels = (neighbors.numel() + num_atoms) * row;
    const int64_t grain = channels < kSerialWork ? num_atoms : std::max<int64_t>(1, num_atoms / 64);
    std::atomic<bool> valid{true};
    at::parallel_for(0, num_atoms, grain, [&](int64_t begin, int64_t end) {
      // At a cache line's begin, or every lane vector in it would lie across two.
      size_t bytes = size_t(kernels.workspace(setup)) * sizeof(Scalar) + kCacheLine;
      const std::unique_ptr<char[]> memory(new char[bytes]);
      void* workspace = memory.get();
      std::align(kCacheLine, 0, workspace, bytes);
      if (!work(static_cast<Scalar*>(workspace), begin, end)) valid = false;
    });
    // The kernels see that an entry is wrong, this says which one.
    if (!valid)
      check_neighbors(kName, setup.wide_neighbors, setup.narrow_neighbors, num_atoms, setup.num_neighbors);
  }

 private:
  Features prepare(const Features& x) const {
    return {pad(x.query), pad(x.key), pad(x.value), x.bias.defined() ? x.bias.contiguous() : x.bias};
  }
  static AttentionInputs<Scalar> pointers(const Features& x) {
    const auto pointer = [](const Tensor& t) { return t.defined() ? t.const_data_ptr<Scalar>() : nullptr; };
    return {pointer(x.query), pointer(x.key), pointer(x.value), pointer(x.bias)};
  }
};

template <class Scalar>
Tensor run_forward(const Features& x, const Features* p, const Tensor& neighbors, double scale) {
  const Call<Scalar> call(x, p, neighbors, scale);
  Tensor result = call.empty_rows();
  Scalar* to = result.template data_ptr<Scalar>();
  call.for_rows([&](Scalar* workspace, int64_t begin, int64_t end) {
    return call.kernels.forward(call.setup, call.input_pointers, call.direction(), to, workspace, begin, end);
  });
  return call.trim(result);
}

template <class Scalar>
Gradients run_backward(
    const Tensor& grad, const Features& x, const Features* p, const Tensor& neighbors, double scale) {
  const Call<Scalar> call(x, p, neighbors, scale);
  check_like(grad, x.query, "the gradient of the result");
  const Tensor upstream = call.pad(grad);
  const Tensor query = call.empty_rows(), key = call.empty_rows(), value = call.empty_rows();
  const Tensor bias = x.bias.defined() ? at::empty_like(call.inputs.bias) : at::empty({0}, x.query.options());
  const Tensor terms_memory = in_huge_pages(at::empty(
      {p ? 2 : 1, call.num_atoms, call.setup.num_neighbors, 2, call.setup.num_heads}, x.query.options()));
  const Scalar* from = upstream.const_data_ptr<Scalar>();
  Scalar *to_query = query.data_ptr<Scalar>(), *to_key = key.data_ptr<Scalar>(), *to_value = value.data_ptr<Scalar>(),
         *to_bias = x.bias.defined() ? bias.data_ptr<Scalar>() : nullptr;
  Scalar* first_term = terms_memory.data_ptr<Scalar>();
  const AttentionTerms<Scalar> terms{first_term, p ? first_term + terms_memory.numel() / 2 : nullptr};
  call.for_rows([&](Scalar* workspace, int64_t begin, int64_t end) {
    return call.kernels.receivers(
        call.setup, call.input_pointers, call.direction(), from, to_query, to_bias, terms, workspace, begin, end);
  });
  const SenderLists senders(
      call.setup.wide_neighbors, call.setup.narrow_neighbors, call.num_atoms, call.setup.num_neighbors);
  const AttentionEdges edges{senders.start.data(), senders.edge.get()};
  call.for_rows([&](Scalar*, int64_t begin, int64_t end) {
    call.kernels.senders(
        call.setup, edges, call.input_pointers, call.direction(), from, terms, to_key, to_value, begin, end);
    return true;
  });
  return {call.trim(query), call.trim(key), call.trim(value), bias};
}

// ---- the four ops -------------------------------------------------------------------------------------------

Tensor dispatch_forward(const Features& x, const Features* p, const Tensor& neighbors, double scale) {
  check_features(x, neighbors);
  return AT_DISPATCH_FLOATING_TYPES(
      x.query.scalar_type(), kName, [&] { return run_forward<scalar_t>(x, p, neighbors, scale); });
}
Gradients dispatch_backward(
    const Tensor& grad, const Features& x, const Features* p, const Tensor& neighbors, double scale) {
  check_features(x, neighbors);
  return AT_DISPATCH_FLOATING_TYPES(
      x.query.scalar_type(), kName, [&] { return run_backward<scalar_t>(grad, x, p, neighbors, scale); });
}

Tensor attention_cpu(DKMP_INPUTS, std::optional<double> scale) {
  return dispatch_forward({query, key, value, value_of(bias)}, nullptr, neighbors, default_scale(query, scale));
}
Tensor attention_tangent_cpu(DKMP_INPUTS, double scale, DKMP_DIRECTIONS) {
  const Features p{value_of(to_query), value_of(to_key), value_of(to_value), value_of(to_bias)};
  return dispatch_forward({query, key, value, value_of(bias)}, &p, neighbors, scale);
}
Gradients attention_backward_cpu(const Tensor& grad, DKMP_INPUTS, double scale) {
  return dispatch_backward(grad, {query, key, value, value_of(bias)}, nullptr, neighbors, scale);
}
Gradients attention_backward_tangent_cpu(const Tensor& grad, DKMP_INPUTS, double scale, DKMP_DIRECTIONS) {
  const Features p{value_of(to_query), value_of(to_key), value_of(to_value), value_of(to_bias)};
  return dispatch_backward(grad, {query, key, value, value_of(bias)}, &p, neighbors, scale);
}

Tensor empty_result(const Tensor& query) { return at::empty_symint(query.sym_sizes(), query.options()); }
Gradients empty_gradients(DKMP_INPUTS) {
  return {empty_result(query), empty_result(key), empty_result(value),
          bias.has_value() ? empty_result(*bias) : at::empty({0}, query.options())};
}

// ---- autograd ------------------------------------------------------------------------------------------------

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

Tensor call_attention(DKMP_INPUTS, std::optional<double> scale) {
  static auto op = find_op<Tensor(DKMP_INPUTS, std::optional<double>)>("dkmp_plugin::dilated_attention");
  return op.call(DKMP_INPUT_NAMES, scale);
}
Tensor call_tangent(DKMP_INPUTS, double scale, DKMP_DIRECTIONS) {
  static auto op = find_op<Tensor(DKMP_INPUTS, double, DKMP_DIRECTIONS)>("dkmp_plugin::dilated_attention_tangent");
  return op.call(DKMP_INPUT_NAMES, scale, DKMP_DIRECTION_NAMES);
}
Gradients call_backward(const Tensor& grad, DKMP_INPUTS, double scale) {
  static auto op =
      find_op<Gradients(const Tensor&, DKMP_INPUTS, double)>("dkmp_plugin::dilated_attention_backward");
  return op.call(grad, DKMP_INPUT_NAMES, scale);
}
Gradients call_backward_tangent(const Tensor& grad, DKMP_INPUTS, double scale, DKMP_DIRECTIONS) {
  static auto op = find_op<Gradients(const Tensor&, DKMP_INPUTS, double, DKMP_DIRECTIONS)>(
      "dkmp_plugin::dilated_attention_backward_tangent");
  return op.call(grad, DKMP_INPUT_NAMES, scale, DKMP_DIRECTION_NAMES);
}

MaybeTensor maybe(const Tensor& x) { return x.defined() ? MaybeTensor(x) : MaybeTensor(); }

struct AttentionBackward : torch::autograd::Function<AttentionBackward> {
  static variable_list forward(AutogradContext* context, const Tensor& grad, DKMP_INPUTS, double scale) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->set_materialize_grads(false);
    context->save_for_backward({grad, query, key, value, neighbors, value_of(bias)});
    context->saved_data["scale"] = scale;
    auto [to_query, to_key, to_value, to_bias] = call_backward(grad, DKMP_INPUT_NAMES, scale);
    return {to_query, to_key, to_value, to_bias};
  }

  static variable_list backward(AutogradContext* context, variable_list cotangents) {
    const variable_list s = context->get_saved_variables();
    const double scale = context->saved_data["scale"].toDouble();
    const MaybeTensor bias = maybe(s[5]), p0 = maybe(cotangents[0]), p1 = maybe(cotangents[1]),
                      p2 = maybe(cotangents[2]), p3 = bias ? maybe(cotangents[3]) : MaybeTensor();
    const Tensor none, to_grad = call_tangent(s[1], s[2], s[3], s[4], bias, scale, p0, p1, p2, p3);
    const auto [to_query, to_key, to_value, to_bias] =
        call_backward_tangent(s[0], s[1], s[2], s[3], s[4], bias, scale, p0, p1, p2, p3);
    return {to_grad, to_query, to_key, to_value, none, bias ? to_bias : none, none};
  }
};

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* context, DKMP_INPUTS, std::optional<double> scale) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({query, key, value, neighbors, value_of(bias)});
    context->saved_data["scale"] = default_scale(query, scale);
    return call_attention(DKMP_INPUT_NAMES, scale);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list s = context->get_saved_variables();
    const MaybeTensor bias = maybe(s[4]);
    const auto [to_query, to_key, to_value, to_bias] =
        call_backward(grads[0], s[0], s[1], s[2], s[3], bias, context->saved_data["scale"].toDouble());
    const Tensor none;
    return {to_query, to_key, to_value, none, bias ? to_bias : none, none};
  }
};

Tensor attention_autograd(DKMP_INPUTS, std::optional<double> scale) {
  return Attention::apply(DKMP_INPUT_NAMES, scale);
}
Gradients attention_backward_autograd(const Tensor& grad, DKMP_INPUTS, double scale) {
  const variable_list r = AttentionBackward::apply(grad, DKMP_INPUT_NAMES, scale);
  return {r[0], r[1], r[2], r[3]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(dkmp_plugin, library) {
  library.def("dilated_attention(" DKMP_INPUT_SCHEMA "=None, float? scale=None) -> Tensor");
  library.def(
      "dilated_attention_tangent(" DKMP_INPUT_SCHEMA ", float scale, " DKMP_DIRECTION_SCHEMA ") -> Tensor");
  library.def(
      "dilated_attention_backward(Tensor grad, " DKMP_INPUT_SCHEMA
      ", float scale) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "dilated_attention_backward_tangent(Tensor grad, " DKMP_INPUT_SCHEMA ", float scale, " DKMP_DIRECTION_SCHEMA
      ") -> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CPU_KEY, library) {
  library.impl("dilated_attention", attention_cpu);
  library.impl("dilated_attention_tangent", attention_tangent_cpu);
  library.impl("dilated_attention_backward", attention_backward_cpu);
  library.impl("dilated_attention_backward_tangent", attention_backward_tangent_cpu);
}

TORCH_LIBRARY_IMPL(dkmp_plugin, Meta, library) {
  library.impl("dilated_attention", [](DKMP_INPUTS, std::optional<double>) { return empty_result(query); });
  library.impl(
      "dilated_attention_tangent", [](DKMP_INPUTS, double, DKMP_DIRECTIONS) { return empty_result(query); });
  library.impl("dilated_attention_backward", [](const Tensor&, DKMP_INPUTS, double) {
    return empty_gradients(DKMP_INPUT_NAMES);
  });
  library.impl("dilated_attention_backward_tangent", [](const Tensor&, DKMP_INPUTS, double, DKMP_DIRECTIONS) {
    return empty_gradients(DKMP_INPUT_NAMES);
  });
}

TORCH_LIBRARY_IMPL(dkmp_plugin, Autograd, library) {
  library.impl("dilated_attention", attention_autograd);
  library.impl("dilated_attention_backward", attention_backward_autograd);
  // A third derivative is refused instead of silently being zero.
  library.impl("dilated_attention_tangent", torch::autograd::autogradNotImplementedFallback());
  library.impl("dilated_attention_backward_tangent", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace dkmp
