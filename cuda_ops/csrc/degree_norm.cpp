// dkmp_plugin::degree_norm and degree_norm_apart: spherical features over their root mean square length (revision 3
// of DKMP^C). As a dozen operations of ATen they take a quarter of an evaluation, and more of a training. Here are the
// ops and the CPU's part; the GPU's is cuda/degree_norm.cpp.
//
// For the double backward of the gradients (dL/dx, dL/dw) of y . u with cotangents p, q: the gradient with respect to u
// is the derivative of y along (p, q), the gradients with respect to x and w those of (dL/dx, dL/dw) along the same.
// Both are the same kernels on dual numbers.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

#include "degree_norm.h"
#include "degree_norm_call.h"
#include "isa.h"
#include "keys.h"

namespace dkmp {

DKMP_KERNELS_OF_LEVELS(DegreeNormKernels, degree_norm_kernels)

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Below this many numbers a call is faster than waking a second thread.
constexpr int64_t kSerialWork = 100000;
constexpr int64_t kChannelBlock = 32;  // a multiple of every level's lanes

// vector (N, 8, d) and weight (2, d).
void check_features(const Tensor& vector, const Tensor& weight) {
  TORCH_CHECK_VALUE(
      vector.dim() == 3 && vector.sym_size(1) == kNumComponents && weight.dim() == 2 &&
          weight.sym_size(0) == kNumDegrees && weight.sym_size(1) == vector.sym_size(2) && vector.sym_size(2) > 0,
      "degree_norm: features have shape ", vector.sym_sizes(), " and weights ", weight.sym_sizes(),
      ", expected (N, 8, d) and (2, d)");
  TORCH_CHECK_VALUE(
      weight.scalar_type() == vector.scalar_type() && weight.device() == vector.device(), "degree_norm: features are ",
      vector.scalar_type(), " on ", vector.device(), ", weights ", weight.scalar_type(), " on ", weight.device());
}

void check_offset(double offset) {
  TORCH_CHECK_VALUE(offset > 0, "degree_norm: offset is ", offset, ", expected a number above zero");
}

// Features (N, 8, d) or, each degree for itself, (N, 3, d) and (N, 5, d).
std::vector<Tensor> empty_features(const Tensor& like, bool apart) {
  const c10::SymInt num_atoms = like.sym_size(0), num_channels = like.sym_size(2);
  if (!apart) return {at::empty_symint({num_atoms, kNumComponents, num_channels}, like.options())};
  std::vector<Tensor> parts;
  for (const int size : kDegreeSize)
    parts.push_back(at::empty_symint({num_atoms, size, num_channels}, like.options()));
  return parts;
}

}  // namespace

bool are_apart(at::TensorList upstream) {
  return !upstream.empty() && upstream[0].dim() == 3 && upstream[0].sym_size(1) == kDegreeSize[0];
}
size_t num_values(at::TensorList upstream) { return are_apart(upstream) ? kNumDegrees : 1; }

namespace {

void check_upstream(at::TensorList upstream, const Tensor& vector) {
  const size_t values = num_values(upstream);
  TORCH_CHECK_VALUE(
      upstream.size() == values || upstream.size() == values + 1, "degree_norm: ", upstream.size(),
      " gradients are given, expected ", values, " or one more");
  for (size_t k = 0; k < upstream.size(); ++k)
    TORCH_CHECK_VALUE(
        upstream[k].dim() == 3 && upstream[k].sym_size(0) == vector.sym_size(0) &&
            upstream[k].sym_size(1) == (are_apart(upstream) && k < values ? kDegreeSize[k] : kNumComponents) &&
            upstream[k].sym_size(2) == vector.sym_size(2) && upstream[k].scalar_type() == vector.scalar_type(),
        "degree_norm: a gradient has shape ", upstream[k].sym_sizes(), " beside features of shape ",
        vector.sym_sizes());
}

void check_directions(at::TensorList directions, const Tensor& vector, const Tensor& weight) {
  TORCH_CHECK_VALUE(
      directions.empty() ||
          (directions.size() == 2 && directions[0].sym_sizes() == vector.sym_sizes() &&
           directions[1].sym_sizes() == weight.sym_sizes() && directions[0].scalar_type() == vector.scalar_type() &&
           directions[1].scalar_type() == vector.scalar_type()),
      "degree_norm: directions differ in shape or dtype from features and weights");
}

}  // namespace

std::vector<Tensor> degree_norm_value_results(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList directions, bool apart) {
  check_features(vector, weight);
  check_offset(offset);
  check_directions(directions, vector, weight);
  return empty_features(vector, apart);
}

std::vector<Tensor> degree_norm_gradient_results(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList upstream, at::TensorList directions,
    bool weighted) {
  check_features(vector, weight);
  check_offset(offset);
  check_upstream(upstream, vector);
  check_directions(directions, vector, weight);
  std::vector<Tensor> results = empty_features(vector, false);
  if (weighted) results.push_back(at::empty_symint(weight.sym_sizes(), weight.options()));
  return results;
}

namespace {

template <class Scalar>
DegreeNormCall<Scalar> prepare(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList directions, std::vector<Tensor>& kept) {
  DegreeNormCall<Scalar> call{};
  const auto numbers = [&](const Tensor& x) {
    kept.push_back(x.contiguous());
    return kept.back().const_data_ptr<Scalar>();
  };
  call.dual = !directions.empty();
  call.num_atoms = vector.size(0);
  call.num_channels = vector.size(2);
  call.offset = Scalar(offset);
  call.vector = numbers(vector);
  call.weight = numbers(weight);
  if (call.dual) {
    call.vector_direction = numbers(directions[0]);
    call.weight_direction = numbers(directions[1]);
  }
  return call;
}

template <class Scalar, class Kernel>
void over_atoms(const DegreeNormCall<Scalar>& call, Kernel kernel) {
  const int64_t work = 3 * kNumComponents * call.num_channels;
  at::parallel_for(0, call.num_atoms, kSerialWork / work + 1, [&](int64_t begin, int64_t end) {
    kernel(call, begin, end);
  });
}

std::vector<Tensor> values_cpu(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList directions, bool apart) {
  std::vector<Tensor> results = degree_norm_value_results(vector, weight, offset, directions, apart), kept;
  AT_DISPATCH_FLOATING_TYPES(vector.scalar_type(), "degree_norm", [&] {
    DegreeNormCall<scalar_t> call = prepare<scalar_t>(vector, weight, offset, directions, kept);
    call.values = place<scalar_t>(results);
    over_atoms(call, degree_norm_kernels_of<scalar_t>(isa_level()).values);
  });
  return results;
}

std::vector<Tensor> gradients_cpu(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList upstream, at::TensorList directions,
    bool weighted) {
  std::vector<Tensor> results = degree_norm_gradient_results(vector, weight, offset, upstream, directions, weighted);
  std::vector<Tensor> kept, parts;
  for (const Tensor& x : upstream) parts.push_back(x.contiguous());
  AT_DISPATCH_FLOATING_TYPES(vector.scalar_type(), "degree_norm_gradients", [&] {
    DegreeNormCall<scalar_t> call = prepare<scalar_t>(vector, weight, offset, directions, kept);
    const DegreeNormKernels<scalar_t> kernels = degree_norm_kernels_of<scalar_t>(isa_level());
    call.upstream = place<const scalar_t>(parts);
    call.added = parts.size() > num_values(parts) ? parts.back().const_data_ptr<scalar_t>() : nullptr;
    call.to_vector = results[0].data_ptr<scalar_t>();
    Tensor factors;
    if (weighted) {
      factors = at::empty({2, call.num_atoms, kNumDegrees}, vector.options());
      call.factors = factors.data_ptr<scalar_t>();
      call.factor_tangents = call.factors + call.num_atoms * kNumDegrees;
    }
    over_atoms(call, kernels.to_vector);
    if (!weighted) return;
    call.to_weight = results[1].data_ptr<scalar_t>();
    const int64_t num_blocks = (call.num_channels + kChannelBlock - 1) / kChannelBlock;
    const int64_t work = 2 * kNumComponents * kChannelBlock * call.num_atoms;
    // A channel's sum runs over all atoms in one thread: its order does not depend on the number of threads.
    at::parallel_for(0, num_blocks, kSerialWork / (work + 1) + 1, [&](int64_t begin, int64_t end) {
      kernels.to_weight(call, begin * kChannelBlock, std::min(end * kChannelBlock, call.num_channels));
    });
  });
  return results;
}

// ---- autograd ------------------------------------------------------------------------------------------------

std::vector<Tensor> call_values(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList directions, bool apart) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("dkmp_plugin::degree_norm_values", "")
                       .typed<std::vector<Tensor>(const Tensor&, const Tensor&, double, at::TensorList, bool)>();
  return op.call(vector, weight, offset, directions, apart);
}

std::vector<Tensor> call_gradients(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList upstream, at::TensorList directions,
    bool weighted) {
  static auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("dkmp_plugin::degree_norm_gradients", "")
          .typed<std::vector<Tensor>(const Tensor&, const Tensor&, double, at::TensorList, at::TensorList, bool)>();
  return op.call(vector, weight, offset, upstream, directions, weighted);
}

struct NormGradients : torch::autograd::Function<NormGradients> {
  static variable_list forward(
      AutogradContext* context, const Tensor& vector, const Tensor& weight, double offset, at::TensorList upstream,
      bool weighted) {
    at::AutoDispatchBelowADInplaceOrView guard;
    variable_list saved{vector, weight};
    saved.insert(saved.end(), upstream.begin(), upstream.end());
    context->save_for_backward(saved);
    context->saved_data["weighted"] = weighted;
    context->saved_data["offset"] = offset;
    return call_gradients(vector, weight, offset, upstream, {}, weighted);
  }

  static variable_list backward(AutogradContext* context, variable_list cotangents) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &vector = saved[0], &weight = saved[1];
    const at::TensorList upstream = at::TensorList(saved).slice(2);
    const bool weighted = context->saved_data["weighted"].toBool();
    const double offset = context->saved_data["offset"].toDouble();
    if (!weighted) cotangents.push_back(at::zeros_like(weight));
    const std::vector<Tensor> gradients = call_gradients(vector, weight, offset, upstream, cotangents, weighted);
    const std::vector<Tensor> by_upstream = call_values(vector, weight, offset, cotangents, are_apart(upstream));
    variable_list all{gradients[0], weighted ? gradients[1] : Tensor(), Tensor()};
    all.insert(all.end(), by_upstream.begin(), by_upstream.end());
    if (upstream.size() > num_values(upstream)) all.push_back(cotangents[0]);
    all.emplace_back();
    return all;
  }
};

// `through`: the features are handed on behind the values, so that the gradient of what is done with them later is
// added in this backward.
struct NormValues : torch::autograd::Function<NormValues> {
  static variable_list forward(
      AutogradContext* context, const Tensor& vector, const Tensor& weight, double offset, bool apart, bool through) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({vector, weight});
    context->saved_data["weighted"] = weight.requires_grad();
    context->saved_data["offset"] = offset;
    variable_list results = call_values(vector, weight, offset, {}, apart);
    if (through) results.push_back(vector);
    return results;
  }

  static variable_list backward(AutogradContext* context, variable_list upstream) {
    const variable_list saved = context->get_saved_variables();
    const double offset = context->saved_data["offset"].toDouble();
    variable_list gradients =
        call_gradients(saved[0], saved[1], offset, upstream, {}, context->saved_data["weighted"].toBool());
    gradients.resize(5);
    return gradients;
  }
};

void refuse_third(at::TensorList tensors) {
  for (const Tensor& x : tensors)
    TORCH_CHECK_NOT_IMPLEMENTED(
        !(at::GradMode::is_enabled() && x.requires_grad()), "degree_norm: third derivatives are not implemented");
}

std::vector<Tensor> values_autograd(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList directions, bool apart) {
  if (directions.empty()) return NormValues::apply(vector, weight, offset, apart, false);
  refuse_third({vector, weight, directions[0], directions[1]});
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_values(vector, weight, offset, directions, apart);
}

std::vector<Tensor> gradients_autograd(
    const Tensor& vector, const Tensor& weight, double offset, at::TensorList upstream, at::TensorList directions,
    bool weighted) {
  if (directions.empty()) return NormGradients::apply(vector, weight, offset, upstream, weighted);
  refuse_third({vector, weight, directions[0], directions[1]});
  refuse_third(upstream);
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_gradients(vector, weight, offset, upstream, directions, weighted);
}

Tensor degree_norm(const Tensor& vector, const Tensor& weight, double offset) {
  return call_values(vector, weight, offset, {}, false)[0];
}

std::tuple<Tensor, Tensor> degree_norm_apart(const Tensor& vector, const Tensor& weight, double offset) {
  const std::vector<Tensor> parts = call_values(vector, weight, offset, {}, true);
  return {parts[0], parts[1]};
}

std::tuple<Tensor, Tensor> degree_norm_through(const Tensor& vector, const Tensor& weight, double offset) {
  const variable_list results = NormValues::apply(vector, weight, offset, false, true);
  return {results[0], results[1]};
}

std::tuple<Tensor, Tensor, Tensor> degree_norm_apart_through(
    const Tensor& vector, const Tensor& weight, double offset) {
  const variable_list results = NormValues::apply(vector, weight, offset, true, true);
  return {results[0], results[1], results[2]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(dkmp_plugin, library) {
  library.def(
      "degree_norm_values(Tensor vector, Tensor weight, float offset, Tensor[] directions, bool apart) -> Tensor[]");
  library.def(
      "degree_norm_gradients(Tensor vector, Tensor weight, float offset, Tensor[] upstream, Tensor[] directions,"
      " bool weighted) -> Tensor[]");
  library.def("degree_norm(Tensor vector, Tensor weight, float offset) -> Tensor", degree_norm);
  library.def(
      "degree_norm_apart(Tensor vector, Tensor weight, float offset) -> (Tensor, Tensor)", degree_norm_apart);
  library.def(
      "degree_norm_through(Tensor(a) vector, Tensor weight, float offset) -> (Tensor, Tensor(a))", degree_norm_through);
  library.def(
      "degree_norm_apart_through(Tensor(a) vector, Tensor weight, float offset) -> (Tensor, Tensor, Tensor(a))",
      degree_norm_apart_through);
}
TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CPU_KEY, library) {
  library.impl("degree_norm_values", values_cpu);
  library.impl("degree_norm_gradients", gradients_cpu);
}
TORCH_LIBRARY_IMPL(dkmp_plugin, Meta, library) {
  library.impl("degree_norm_values", degree_norm_value_results);
  library.impl("degree_norm_gradients", degree_norm_gradient_results);
}
TORCH_LIBRARY_IMPL(dkmp_plugin, Autograd, library) {
  library.impl("degree_norm_values", values_autograd);
  library.impl("degree_norm_gradients", gradients_autograd);
}

}  // namespace dkmp
