// CUDA implementation of dilated_attention; see ../dilated_attention.cpp for the ops and their autograd and
// ../../kernels/dilated_attention.cu for the kernels.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
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

#include "../../kernels/dilated_attention_plan.cuh"
#include "../dilated_attention_call.h"
#include "../keys.h"
#include "launch.h"

namespace dkmp {
namespace cuda {
namespace {

using at::Tensor;
constexpr const char* kFile = "dilated_attention.cu";

AttentionFeatures aligned_features(const AttentionFeatures& x) {
  return {aligned(x.query), aligned(x.key), aligned(x.value), aligned(x.bias)};
}

// A checked call with aligned inputs.
struct Call {
  AttentionFeatures x, p;
  Tensor neighbors;
  int64_t num_atoms, num_heads, head_width, num_neighbors, groups;
  bool dual;
  double scale;

  Call(const AttentionFeatures& inputs, const AttentionFeatures* directions, const Tensor& neighbors_, double scale_)
      : dual(directions != nullptr), scale(scale_) {
    check_features(inputs, neighbors_);
    if (directions) {
      check_like(directions->query, inputs.query, "the direction of query");
      check_like(directions->key, inputs.key, "the direction of key");
      check_like(directions->value, inputs.value, "the direction of value");
      check_like(directions->bias, inputs.bias, "the direction of bias");
      p = aligned_features(*directions);
    }
    x = aligned_features(inputs);
    neighbors = neighbors_.contiguous();
    num_atoms = x.query.size(0);
    num_heads = x.query.size(1);
    head_width = x.query.size(2);
    num_neighbors = neighbors.size(1);
    TORCH_CHECK_VALUE(
        head_width <= kWidestHead, kAttentionName, ": query has shape ", x.query.sizes(), ", expected at most ",
        kWidestHead, " channels per head on CUDA; use more heads");
    const int64_t per_warp = 32 / attention_head_lanes(int(head_width), int(x.query.element_size()));
    groups = (num_heads + per_warp - 1) / per_warp;
    constexpr int64_t limit = std::numeric_limits<int32_t>::max();
    TORCH_CHECK_VALUE(
        num_atoms * groups < limit - kAttentionThreads && num_atoms * num_neighbors < limit, kAttentionName,
        ": query has shape ", x.query.sizes(), " and neighbors ", neighbors.sizes(),
        "; fewer than 2^31 entries can be served, split the call");
  }

  bool nothing() const { return num_atoms == 0 || num_neighbors == 0; }
  Shape shape() const { return {blocks_for(num_atoms * groups, kAttentionThreads / 32), kAttentionThreads}; }
  Kernel kernel(const char* name) const {
    const bool wide = neighbors.scalar_type() == at::kLong;
    return {kFile,
            name,
            {scalar_option(x.query), option("DKMP_DUAL", dual), option("DKMP_HEAD_WIDTH", head_width),
             option("DKMP_WIDE_NEIGHBORS", wide)}};
  }
};

// The inputs and directions as the kernels take them.
#define DKMP_POINTERS(x, p)                                                                                \
  pointer<scalar_t>((x).query), pointer<scalar_t>((x).key), pointer<scalar_t>((x).value),                 \
      pointer<scalar_t>((x).bias), pointer<scalar_t>((p).query), pointer<scalar_t>((p).key),              \
      pointer<scalar_t>((p).value), pointer<scalar_t>((p).bias)
#define DKMP_SIZES scalar_t(call.scale), int(call.num_atoms), int(call.num_heads), int(call.num_neighbors)

Tensor forward(const AttentionFeatures& x, const AttentionFeatures* p, const Tensor& neighbors, double scale) {
  const Call call(x, p, neighbors, scale);
  Tensor result = call.nothing() ? at::zeros_like(call.x.query) : at::empty_like(call.x.query);
  if (call.nothing()) return result;
  AT_DISPATCH_FLOATING_TYPES(call.x.query.scalar_type(), kAttentionName, [&] {
    launch(
        call.x.query, call.kernel("dilated_attention_forward"), call.shape(), DKMP_POINTERS(call.x, call.p),
        call.neighbors.const_data_ptr(), result.data_ptr<scalar_t>(), DKMP_SIZES);
  });
  return result;
}

// Edges i K + k sorted by the atom they name, ties in ascending order, and where those of every atom start: both are
// made on the device. Entries that name no atom lie before start[0] or after start[N].
std::pair<Tensor, Tensor> sender_lists(const Tensor& neighbors, int64_t num_atoms) {
  const Tensor names = neighbors.view(-1).to(at::kInt);
  auto [sorted, edges] = at::sort(names, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Tensor atoms = at::arange(num_atoms + 1, names.options());
  return {at::searchsorted(sorted, atoms), edges};
}

AttentionGradients backward(
    const Tensor& grad, const AttentionFeatures& x, const AttentionFeatures* p, const Tensor& neighbors,
    double scale) {
  const Call call(x, p, neighbors, scale);
  check_like(grad, x.query, "the gradient of the result");
  const Tensor& like = call.x.query;
  const bool with_bias = x.bias.defined();
  const Tensor no_bias = at::empty({0}, like.options());
  if (call.nothing())
    return {at::zeros_like(like), at::zeros_like(like), at::zeros_like(like),
            with_bias ? at::zeros_like(call.x.bias) : no_bias};
  const Tensor upstream = aligned(grad), query = at::empty_like(like), key = at::empty_like(like),
               value = at::empty_like(like);
  const Tensor statistics = at::empty({call.num_atoms, call.num_heads, attention_statistics(call.dual)}, like.options());
  const Tensor bias = with_bias
                          ? at::zeros({call.groups, call.num_atoms, call.num_neighbors}, like.options())
                          : Tensor();
  const auto [start, edges] = sender_lists(call.neighbors, call.num_atoms);
  AT_DISPATCH_FLOATING_TYPES(like.scalar_type(), kAttentionName, [&] {
    launch(
        like, call.kernel("dilated_attention_receivers"), call.shape(), upstream.const_data_ptr<scalar_t>(),
        DKMP_POINTERS(call.x, call.p), call.neighbors.const_data_ptr(), query.data_ptr<scalar_t>(),
        statistics.data_ptr<scalar_t>(), DKMP_SIZES);
    launch(
        like, call.kernel("dilated_attention_senders"), call.shape(), upstream.const_data_ptr<scalar_t>(),
        DKMP_POINTERS(call.x, call.p), statistics.const_data_ptr<scalar_t>(), start.const_data_ptr<int64_t>(),
        edges.const_data_ptr<int64_t>(), key.data_ptr<scalar_t>(), value.data_ptr<scalar_t>(),
        with_bias ? bias.data_ptr<scalar_t>() : nullptr, DKMP_SIZES);
  });
  if (!with_bias) return {query, key, value, no_bias};
  return {query, key, value, call.groups == 1 ? bias.view(call.neighbors.sizes()) : bias.sum(0)};
}

Tensor attention(DKMP_INPUTS, std::optional<double> scale) {
  check_devices("dilated_attention", {query, key, value, value_of(bias), neighbors});
  return forward({query, key, value, value_of(bias)}, nullptr, neighbors, default_scale(query, scale));
}
Tensor attention_tangent(DKMP_INPUTS, double scale, DKMP_DIRECTIONS) {
  const AttentionFeatures p{value_of(to_query), value_of(to_key), value_of(to_value), value_of(to_bias)};
  return forward({query, key, value, value_of(bias)}, &p, neighbors, scale);
}
AttentionGradients attention_backward(const Tensor& grad, DKMP_INPUTS, double scale) {
  return backward(grad, {query, key, value, value_of(bias)}, nullptr, neighbors, scale);
}
AttentionGradients attention_backward_tangent(const Tensor& grad, DKMP_INPUTS, double scale, DKMP_DIRECTIONS) {
  const AttentionFeatures p{value_of(to_query), value_of(to_key), value_of(to_value), value_of(to_bias)};
  return backward(grad, {query, key, value, value_of(bias)}, &p, neighbors, scale);
}

}  // namespace
}  // namespace cuda

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CUDA_KEY, library) {
  library.impl("dilated_attention", cuda::attention);
  library.impl("dilated_attention_tangent", cuda::attention_tangent);
  library.impl("dilated_attention_backward", cuda::attention_backward);
  library.impl("dilated_attention_backward_tangent", cuda::attention_backward_tangent);
}

}  // namespace dkmp
