// CUDA implementation of dilated_message's four ops; schemas and autograd are in ../dilated_message.cpp.
//
// Edges past the last shell are never read, and how many a shell holds is known on the device alone, so graphs of
// fixed size can be captured. An edge to an atom that does not exist, or an impossible ptr, gives NaN results.
#include "../dilated_message.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "../../kernels/dilated_message_plan.cuh"
#include "../keys.h"
#include "shell_groups.h"
#include "launch.h"

namespace dkmp {
namespace cuda {
namespace {

using at::Tensor;
using namespace message;
constexpr int64_t kWidest = 2048;
constexpr int kThreads = 256;
// The table's gradient: edges per block to aim for, and the most blocks.
constexpr int64_t kPieceEdges = 256, kMostPieces = 2048;

// A checked, contiguous, padded call, ready for the kernels.
template <class Scalar>
struct Call {
  Features inputs, directions;
  Tensor edge_index, ptr;
  Shell shell;
  int64_t num_atoms, num_edges, heads, head_width, padded_head_width, width;
  bool attention, carries_vector, dual;

  Call(const Features& x, const Features* p, const Tensor& edges, const Tensor& ends, const Shell& part)
      : edge_index(edges.contiguous()), ptr(ends.contiguous()), shell(part) {
    check_features(x, edge_index, ptr, shell);
    num_atoms = x.value.size(0);
    num_edges = edge_index.size(1);
    TORCH_CHECK_VALUE(
        num_atoms < std::numeric_limits<int>::max() / 8 && num_edges < std::numeric_limits<int>::max(), kName, ": ",
        num_atoms, " atoms and ", num_edges, " edges are more than the CUDA kernels count");
    attention = x.query.numel() > 0;
    carries_vector = x.vector.numel() > 0;
    heads = attention ? shell.num_heads : 1;
    head_width = x.value.size(1) / 3 / heads;
    TORCH_CHECK_VALUE(
        heads * head_width <= kWidest, kName, ": width ", heads * head_width, " is more than the ", kWidest,
        " channels that the CUDA kernels handle");
    padded_head_width = attention ? message_head_width(int(head_width), int(heads)) : (head_width + 31) / 32 * 32;
    width = heads * padded_head_width;
    dual = p != nullptr;
    inputs = prepare(x);
    if (p) directions = prepare(*p);
  }

  Tensor prepare(const Tensor& x) const {
    return x.defined() ? aligned(pad_channels(x.contiguous(), head_width, padded_head_width)) : x;
  }
  Features prepare(const Features& x) const {
    const Tensor edges = x.edge_vector.defined() ? x.edge_vector.contiguous() : x.edge_vector;
    return {edges, prepare(x.query), prepare(x.key), prepare(x.value), prepare(x.vector),
            prepare(pad_rows(x.table, shell.degree))};
  }
  Tensor trim(const Tensor& x) const { return trim_channels(x, head_width, padded_head_width); }

  int64_t intervals() const { return inputs.table.size(0) - (kSplineTaps - 1); }
  int number_bytes() const { return int(sizeof(Scalar)) * (dual ? 2 : 1); }
  int plan_heads() const { return attention ? int(heads) : 0; }
  ShellGroups group(int row) const { return group_shell(edge_index, ptr, shell.index, row, num_atoms); }
  const int64_t* atoms(int row) const { return edge_index.const_data_ptr<int64_t>() + row * num_edges; }

  Kernel kernel(const char* file, const char* name) const {
    return {
        file,
        name,
        {scalar_option(inputs.value), option("DKMP_DUAL", dual), option("DKMP_WIDTH", width),
         option("DKMP_HEADS", plan_heads()), option("DKMP_VECTOR", carries_vector)}};
  }

  // MESSAGE_ARGUMENTS of kernels/dilated_message.cuh.
  auto arguments() const {
    const auto values = [](const Tensor& t) {
      return t.defined() && t.numel() > 0 ? t.const_data_ptr<Scalar>() : nullptr;
    };
    const double half = 0.5 * shell.overlap, start = std::max(0.0, shell.lower - half),
                 stop = std::min(shell.cutoff, shell.upper + half);
    return std::make_tuple(
        values(inputs.edge_vector), values(inputs.query), values(inputs.key), values(inputs.value),
        values(inputs.vector), values(inputs.table), values(directions.edge_vector), values(directions.query),
        values(directions.key), values(directions.value), values(directions.vector), values(directions.table),
        Scalar(shell.lower), Scalar(shell.upper), Scalar(shell.overlap), Scalar(shell.cutoff), Scalar(start),
        Scalar(double(intervals()) / (stop - start)), int(shell.lower > 0), int(shell.upper < shell.cutoff),
        int(intervals()), int(shell.degree));
  }

  // Launches with `before`, the common arguments, and `after`.
  template <class Before, class After>
  void run(const Kernel& kernel, const Shape& shape, const Before& before, const After& after) const {
    std::apply(
        [&](auto... all) { launch(inputs.value, kernel, shape, all...); },
        std::tuple_cat(before, arguments(), after));
  }
};

// One block per row, of as many teams as keep the device busy: rows and device alone decide, whatever the edges are.
Shape row_shape(const Tensor& on, int64_t rows, const MessagePlan& plan) {
  const int teams = message_teams(plan, rows, multiprocessors(on));
  return {rows, teams * plan.warps * 32, message_shared_bytes(plan, teams)};
}

template <class Scalar>
std::tuple<Tensor, Tensor> run_forward(const Call<Scalar>& call) {
  const auto options = call.inputs.value.options();
  Tensor scalar = at::empty({call.num_atoms, call.width}, options);
  Tensor vector = at::empty({call.num_atoms, kHarmonics, call.width}, options);
  const ShellGroups groups = call.group(0);
  const MessagePlan plan = message_forward_plan(int(call.width), call.plan_heads(), call.number_bytes());
  call.run(
      call.kernel("dilated_message_forward.cu", "dilated_message_forward"),
      row_shape(call.inputs.value, call.num_atoms, plan),
      std::make_tuple(groups.first(), groups.list(), groups.broken(), call.atoms(1)),
      std::make_tuple(scalar.data_ptr<Scalar>(), vector.data_ptr<Scalar>()));
  return {call.trim(scalar), call.trim(vector)};
}

// Cotangents of the results, padded.
struct Cotangents {
  Tensor scalar, vector;
};

// Gradients of queries and, if `scores` is defined, what the gradient of the table needs of each edge and head.
template <class Scalar>
void run_query(const Call<Scalar>& call, const Cotangents& given, const Tensor& query, const Tensor& scores) {
  const ShellGroups groups = call.group(0);
  const MessagePlan plan = message_query_plan(int(call.width), call.plan_heads(), call.number_bytes());
  call.run(
      call.kernel("dilated_message_query.cu", "dilated_message_query"),
      row_shape(call.inputs.value, call.num_atoms, plan),
      std::make_tuple(groups.first(), groups.list(), groups.broken(), call.atoms(1)),
      std::make_tuple(
          given.scalar.const_data_ptr<Scalar>(), query.data_ptr<Scalar>(),
          scores.defined() ? scores.data_ptr<Scalar>() : nullptr));
}

template <class Scalar>
Tensor run_table(const Call<Scalar>& call, const Cotangents& given, const Tensor& scores, const ShellGroups& groups) {
  const Tensor& table = call.inputs.table;
  if (call.num_edges == 0) return at::zeros_like(table);
  const char* file = "dilated_message_table.cu";
  const int64_t intervals = call.intervals();
  const Tensor interval_of = at::empty({call.num_edges}, table.options().dtype(at::kInt));
  const int64_t* ends = call.ptr.template const_data_ptr<int64_t>();
  call.run(
      call.kernel(file, "message_intervals"), {blocks_for(call.num_edges, kThreads), kThreads},
      std::make_tuple(call.atoms(0), ends, int(call.shell.index), int(call.num_edges), int(call.num_atoms)),
      std::make_tuple(interval_of.data_ptr<int>()));
  const auto [sorted, order] = at::sort(interval_of, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Tensor starts = at::searchsorted(sorted, at::arange(intervals + 1, interval_of.options()));
  const int64_t pieces = std::max<int64_t>(
      1, std::min(call.num_edges / (intervals * kPieceEdges), kMostPieces / intervals));
  const Tensor parts = at::empty({intervals * pieces, kSplineTaps, 4 * call.width}, table.options());
  const MessagePlan plan = message_table_plan(int(call.width), call.number_bytes());
  call.run(
      call.kernel(file, "message_table_pieces"), row_shape(table, intervals * pieces, plan),
      std::make_tuple(
          starts.const_data_ptr<int64_t>(), order.template const_data_ptr<int64_t>(), call.atoms(0),
          int(call.num_edges), int(pieces)),
      std::make_tuple(
          given.scalar.const_data_ptr<Scalar>(), given.vector.const_data_ptr<Scalar>(),
          scores.defined() ? static_cast<const Scalar*>(scores.const_data_ptr<Scalar>()) : nullptr,
          parts.data_ptr<Scalar>()));
  Tensor result = at::empty_like(table);
  launch(
      table, call.kernel(file, "message_table_sum"), {blocks_for(table.numel(), kThreads), kThreads},
      parts.const_data_ptr<Scalar>(), groups.broken(), int(intervals), int(pieces), result.data_ptr<Scalar>());
  return result;
}

template <class Scalar>
Results run_backward(
    const Call<Scalar>& call, const Tensor& grad_scalar, const Tensor& grad_vector, bool need_table) {
  const int64_t width = call.heads * call.head_width;
  TORCH_CHECK_VALUE(
      grad_scalar.sizes() == at::IntArrayRef({call.num_atoms, width}) &&
          grad_vector.sizes() == at::IntArrayRef({call.num_atoms, kHarmonics, width}) &&
          grad_scalar.scalar_type() == call.inputs.value.scalar_type() &&
          grad_vector.scalar_type() == call.inputs.value.scalar_type(),
      kName, ": gradients have shapes ", grad_scalar.sizes(), " and ", grad_vector.sizes(), " and dtypes ",
      grad_scalar.scalar_type(), " and ", grad_vector.scalar_type(), ", expected those of the results");
  const Cotangents given{call.prepare(grad_scalar), call.prepare(grad_vector)};
  const Features& x = call.inputs;
  // The kernel writes the gradients of the shell's own edges and of all atoms.
  const Features grads{at::zeros_like(x.edge_vector), at::empty_like(x.query),  at::empty_like(x.key),
                       at::empty_like(x.value),       at::empty_like(x.vector), Tensor()};
  const ShellGroups groups = call.group(1);
  const MessagePlan plan = message_backward_plan(int(call.width), call.plan_heads(), call.number_bytes());
  const auto to = [](const Tensor& t) { return t.numel() > 0 ? t.data_ptr<Scalar>() : nullptr; };
  call.run(
      call.kernel("dilated_message_backward.cu", "dilated_message_backward"),
      row_shape(call.inputs.value, call.num_atoms, plan),
      std::make_tuple(groups.first(), groups.list(), groups.broken(), call.atoms(0)),
      std::make_tuple(
          given.scalar.const_data_ptr<Scalar>(), given.vector.const_data_ptr<Scalar>(), to(grads.edge_vector),
          to(grads.key), to(grads.value), to(grads.vector)));
  Tensor scores;
  if (call.attention) {
    if (need_table) scores = at::empty({call.num_edges, call.heads, call.dual ? 4 : 2}, x.value.options());
    run_query(call, given, grads.query, scores);
  }
  const Tensor table =
      need_table ? trim_rows(call.trim(run_table(call, given, scores, groups)), call.shell.degree)
                 : at::zeros({0}, x.table.options());
  return {grads.edge_vector, call.trim(grads.query), call.trim(grads.key), call.trim(grads.value),
          call.trim(grads.vector), table};
}

// ---- the four ops -------------------------------------------------------------------------------------------

std::tuple<Tensor, Tensor> message_sums(DKMP_INPUTS) {
  check_devices(kName, {edge_vector, edge_index, ptr, query, key, value, vector, table});
  return AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), kName, [&] {
    return run_forward(Call<scalar_t>(
        {edge_vector, query, key, value, vector, table}, nullptr, edge_index, ptr,
        {shell, num_heads, lower, upper, overlap, cutoff, degree}));
  });
}

std::tuple<Tensor, Tensor> message_tangent(DKMP_INPUTS, at::TensorList directions) {
  const Features x{edge_vector, query, key, value, vector, table}, p = unpack_directions(directions, x);
  return AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), kName, [&] {
    return run_forward(
        Call<scalar_t>(x, &p, edge_index, ptr, {shell, num_heads, lower, upper, overlap, cutoff, degree}));
  });
}

Results message_backward(const Tensor& grad_scalar, const Tensor& grad_vector, DKMP_INPUTS, bool need_table) {
  return AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), kName, [&] {
    const Call<scalar_t> call(
        {edge_vector, query, key, value, vector, table}, nullptr, edge_index, ptr,
        {shell, num_heads, lower, upper, overlap, cutoff, degree});
    return run_backward(call, grad_scalar, grad_vector, need_table);
  });
}

Results message_backward_tangent(
    const Tensor& grad_scalar, const Tensor& grad_vector, DKMP_INPUTS, bool need_table, at::TensorList directions) {
  const Features x{edge_vector, query, key, value, vector, table}, p = unpack_directions(directions, x);
  return AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), kName, [&] {
    const Call<scalar_t> call(x, &p, edge_index, ptr, {shell, num_heads, lower, upper, overlap, cutoff, degree});
    return run_backward(call, grad_scalar, grad_vector, need_table);
  });
}

}  // namespace
}  // namespace cuda

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CUDA_KEY, library) {
  library.impl("dilated_message", cuda::message_sums);
  library.impl("dilated_message_tangent", cuda::message_tangent);
  library.impl("dilated_message_backward", cuda::message_backward);
  library.impl("dilated_message_backward_tangent", cuda::message_backward_tangent);
}

}  // namespace dkmp
