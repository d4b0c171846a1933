// What the CPU and the CUDA implementation of dilated_attention share: arguments and their checks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>
#include <optional>
#include <tuple>

namespace dkmp {

constexpr const char* kAttentionName = "dilated_attention";
using AttentionGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// The four differentiable inputs, or their directions; undefined tensors are absent or zero.
struct AttentionFeatures {
  at::Tensor query, key, value, bias;
};

inline at::Tensor value_of(const std::optional<at::Tensor>& x) { return x.has_value() ? *x : at::Tensor(); }

inline void check_features(const AttentionFeatures& x, const at::Tensor& neighbors) {
  TORCH_CHECK_VALUE(
      x.query.dim() == 3 && x.key.sizes() == x.query.sizes() && x.value.sizes() == x.query.sizes(), kAttentionName,
      ": query, key and value have shapes ", x.query.sizes(), ", ", x.key.sizes(), " and ", x.value.sizes(),
      ", expected one common shape (N, H, D)");
  TORCH_CHECK_VALUE(
      x.query.size(1) > 0 && x.query.size(2) > 0, kAttentionName, ": query has shape ", x.query.sizes(),
      ", expected at least one head and one channel per head");
  TORCH_CHECK_VALUE(
      x.query.scalar_type() == at::kFloat || x.query.scalar_type() == at::kDouble, kAttentionName, ": query is ",
      x.query.scalar_type(), ", expected float32 or float64; convert it with .float()");
  for (const at::Tensor* given : {&x.key, &x.value, &x.bias})
    TORCH_CHECK_VALUE(
        !given->defined() || given->scalar_type() == x.query.scalar_type(), kAttentionName, ": query is ",
        x.query.scalar_type(), " and another input ", given->scalar_type(),
        "; query, key, value and bias must have the same dtype");
  TORCH_CHECK_VALUE(
      neighbors.dim() == 2 && neighbors.size(0) == x.query.size(0), kAttentionName, ": neighbors has shape ",
      neighbors.sizes(), ", expected (N, K) with N = ", x.query.size(0));
  TORCH_CHECK_VALUE(
      neighbors.scalar_type() == at::kLong || neighbors.scalar_type() == at::kInt, kAttentionName, ": neighbors is ",
      neighbors.scalar_type(), ", expected int64 or int32");
  TORCH_CHECK_VALUE(
      !x.bias.defined() || x.bias.sizes() == neighbors.sizes(), kAttentionName, ": bias has shape ",
      x.bias.defined() ? x.bias.sizes() : at::IntArrayRef(), ", expected that of neighbors, ", neighbors.sizes());
  for (const at::Tensor* given : {&x.key, &x.value, &x.bias, &neighbors})
    TORCH_CHECK_VALUE(
        !given->defined() || given->device() == x.query.device(), kAttentionName, ": inputs are on ", x.query.device(),
        " and ", given->device(), "; move them to one device");
}

inline void check_like(const at::Tensor& given, const at::Tensor& like, const char* what) {
  TORCH_CHECK_VALUE(
      !given.defined() ||
          (like.defined() && given.sizes() == like.sizes() && given.scalar_type() == like.scalar_type()),
      kAttentionName, ": ", what, " differs in shape or dtype from what it belongs to");
}

inline double default_scale(const at::Tensor& query, std::optional<double> scale) {
  if (scale.has_value()) return *scale;
  return query.dim() == 3 && query.size(2) > 0 ? 1.0 / std::sqrt(double(query.size(2))) : 1.0;
}

}  // namespace dkmp

// Parameters of the ops, their names and their schema.
#define DKMP_INPUTS                                                                                        \
  const at::Tensor &query, const at::Tensor &key, const at::Tensor &value, const at::Tensor &neighbors,   \
      const std::optional<at::Tensor> &bias
#define DKMP_INPUT_NAMES query, key, value, neighbors, bias
#define DKMP_DIRECTIONS                                                                                    \
  const std::optional<at::Tensor> &to_query, const std::optional<at::Tensor> &to_key,                      \
      const std::optional<at::Tensor> &to_value, const std::optional<at::Tensor> &to_bias
#define DKMP_DIRECTION_NAMES to_query, to_key, to_value, to_bias
#define DKMP_INPUT_SCHEMA "Tensor query, Tensor key, Tensor value, Tensor neighbors, Tensor? bias"
#define DKMP_DIRECTION_SCHEMA "Tensor? to_query, Tensor? to_key, Tensor? to_value, Tensor? to_bias"
