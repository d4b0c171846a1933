// dkmp_plugin::degree_invariants, degree_gates (revision 2 of DKMP^C's layers), degree_features, degree_update (since
// revision 3) and degree_products (older exports of those): what layers compute for every atom and channel on its own.
// One pass over memory instead of dozens of small operations, each of which would have derivatives of its own. Here are
// the ops and the CPU's part; the GPU's is cuda/degree_maps.cpp.
//
// All of it is one op on the maps of degree_maps.h. For the double backward of J^T u with cotangents p: the gradient
// with respect to u is J p, the tangent of the map; the gradient with respect to the map's inputs is the tangent of
// its backward. Both are the same kernels on dual numbers.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "degree_maps.h"
#include "degree_maps_call.h"
#include "isa.h"
#include "keys.h"

namespace dkmp {

DKMP_KERNELS_OF_LEVELS(RunDegreeMap, degree_kernels)

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Below this many components a call is faster than waking a second thread.
constexpr int64_t kSerialWork = 200000;

// Numbers of atoms and channels, from the first input: (N, components d) in memory, whatever its shape.
struct Size {
  c10::SymInt num_atoms, num_channels;
};

Size size_of(int64_t map, at::TensorList inputs) {
  const DegreeMapShape& shape = kDegreeMaps[map];
  TORCH_CHECK_VALUE(
      int64_t(inputs.size()) == shape.num_inputs || int64_t(inputs.size()) == num_needed(map), shape.name, ": ",
      inputs.size(), " tensors given, expected ", shape.num_inputs);
  const Tensor& first = inputs[0];
  TORCH_CHECK_VALUE(first.dim() >= 2, shape.name, ": a tensor has shape ", first.sym_sizes(), ", expected atoms first");
  c10::SymInt components = 1;
  for (int64_t k = 1; k < first.dim(); ++k) components = components * first.sym_size(k);
  return {first.sym_size(0), components / shape.inputs[0]};
}

void check_inputs(const DegreeMapShape& shape, at::TensorList inputs, at::TensorList directions, const Size& size) {
  for (size_t k = 0; k < inputs.size(); ++k) {
    const Tensor& x = inputs[k];
    TORCH_CHECK_VALUE(
        x.dim() >= 2 && x.sym_size(0) == size.num_atoms &&
            x.sym_numel() == size.num_atoms * size.num_channels * shape.inputs[k],
        shape.name, ": tensor ", k, " has shape ", x.sym_sizes(), ", expected ", shape.inputs[k], " components of ",
        size.num_channels, " channels for ", size.num_atoms, " atoms");
    TORCH_CHECK_VALUE(
        x.scalar_type() == inputs[0].scalar_type() && x.device() == inputs[0].device(), shape.name, ": tensor ", k,
        " is ", x.scalar_type(), " on ", x.device(), ", the first one ", inputs[0].scalar_type(), " on ",
        inputs[0].device());
  }
  TORCH_CHECK_VALUE(
      int64_t(directions.size()) <= shape.num_inputs, shape.name, ": more directions than tensors are given");
  for (size_t k = 0; k < directions.size(); ++k)
    TORCH_CHECK_VALUE(
        directions[k].sym_sizes() == inputs[k].sym_sizes() && directions[k].scalar_type() == inputs[k].scalar_type(),
        shape.name, ": direction ", k, " differs in shape or dtype from its tensor");
}

// Results of a backward have the shapes of the map's inputs.
std::vector<Tensor> empty_results(int64_t map, at::TensorList inputs, const Size& size) {
  const DegreeMapShape& shape = kDegreeMaps[map];
  std::vector<Tensor> results;
  for (int64_t k = 0; k < shape.num_results; ++k) {
    if (is_backward(map)) {
      results.push_back(at::empty_symint(inputs[k].sym_sizes(), inputs[k].options()));
    } else if (shape.results[k] == 1) {
      results.push_back(at::empty_symint({size.num_atoms, size.num_channels}, inputs[0].options()));
    } else {
      const c10::SymInt components = shape.results[k];
      results.push_back(at::empty_symint({size.num_atoms, components, size.num_channels}, inputs[0].options()));
    }
  }
  return results;
}

void check_map(int64_t map) {
  TORCH_CHECK_VALUE(map >= 0 && map < kNumMaps, "degree_map: there is no map ", map);
}

}  // namespace

std::vector<Tensor> degree_map_results(int64_t map, at::TensorList inputs, at::TensorList directions) {
  check_map(map);
  const Size size = size_of(map, inputs);
  check_inputs(kDegreeMaps[map], inputs, directions, size);
  return empty_results(map, inputs, size);
}

namespace {

std::vector<Tensor> map_cpu(int64_t map, at::TensorList inputs, at::TensorList directions) {
  std::vector<Tensor> results = degree_map_results(map, inputs, directions), kept;
  const int64_t num_atoms = inputs[0].size(0);
  if (inputs[0].numel() == 0) return results;
  const int64_t num_channels = inputs[0].numel() / (num_atoms * kDegreeMaps[map].inputs[0]);
  AT_DISPATCH_FLOATING_TYPES(inputs[0].scalar_type(), "degree_map", [&] {
    const scalar_t *from[kMaxTensors] = {}, *direction[kMaxTensors] = {};
    scalar_t* to[kMaxTensors] = {};
    for (size_t k = 0; k < inputs.size(); ++k) {
      kept.push_back(inputs[k].contiguous());
      from[k] = kept.back().const_data_ptr<scalar_t>();
    }
    for (size_t k = 0; k < directions.size(); ++k) {
      kept.push_back(directions[k].contiguous());
      direction[k] = kept.back().const_data_ptr<scalar_t>();
    }
    for (size_t k = 0; k < results.size(); ++k) to[k] = results[k].data_ptr<scalar_t>();
    const RunDegreeMap<scalar_t> run = degree_kernels_of<scalar_t>(isa_level());
    const int64_t work = 40 * num_channels;  // components read and written per atom, about
    at::parallel_for(0, num_atoms, kSerialWork / std::max<int64_t>(work, 1) + 1, [&](int64_t begin, int64_t end) {
      run(DegreeMap(map), from, directions.empty() ? nullptr : direction, to, num_channels, begin, end);
    });
  });
  return results;
}

// ---- autograd ------------------------------------------------------------------------------------------------

std::vector<Tensor> call_map(int64_t map, at::TensorList inputs, at::TensorList directions) {
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("dkmp_plugin::degree_map", "")
                       .typed<std::vector<Tensor>(int64_t, at::TensorList, at::TensorList)>();
  return op.call(map, inputs, directions);
}

// What backward returns: nothing for the argument `map`, then the gradients.
variable_list after_map(const std::vector<Tensor>& gradients) {
  variable_list all{Tensor()};
  all.insert(all.end(), gradients.begin(), gradients.end());
  return all;
}

// The forward of both functions below: what is only added to the results is not kept.
variable_list run_and_save(AutogradContext* context, int64_t map, at::TensorList inputs) {
  at::AutoDispatchBelowADInplaceOrView guard;
  context->save_for_backward(inputs.slice(0, num_needed(map)).vec());
  context->saved_data["map"] = map;
  context->saved_data["added"] = int64_t(inputs.size()) - num_needed(map);
  return call_map(map, inputs, {});
}

// Gradients of what was added to the first results: those of these.
void append_added(AutogradContext* context, const variable_list& upstream, std::vector<Tensor>& gradients) {
  gradients.insert(gradients.end(), upstream.begin(), upstream.begin() + context->saved_data["added"].toInt());
}

struct MapBackward : torch::autograd::Function<MapBackward> {
  static variable_list forward(AutogradContext* context, int64_t map, at::TensorList inputs) {
    return run_and_save(context, map, inputs);
  }

  static variable_list backward(AutogradContext* context, variable_list cotangents) {
    const variable_list inputs = context->get_saved_variables();
    const int64_t map = context->saved_data["map"].toInt();
    std::vector<Tensor> gradients = call_map(map, inputs, cotangents);
    const std::vector<Tensor> by_upstream =
        call_map(map - 1, at::TensorList(inputs).slice(0, num_primal(map)), cotangents);
    gradients.insert(gradients.end(), by_upstream.begin(), by_upstream.end());
    append_added(context, cotangents, gradients);
    return after_map(gradients);
  }
};

struct MapForward : torch::autograd::Function<MapForward> {
  static variable_list forward(AutogradContext* context, int64_t map, at::TensorList inputs) {
    return run_and_save(context, map, inputs);
  }

  static variable_list backward(AutogradContext* context, variable_list upstream) {
    variable_list inputs = context->get_saved_variables();
    inputs.insert(inputs.end(), upstream.begin(), upstream.end());
    std::vector<Tensor> gradients = call_map(context->saved_data["map"].toInt() + 1, inputs, {});
    append_added(context, upstream, gradients);
    return after_map(gradients);
  }
};

// Hands the pairs on, so that the gradient of what is done with them later is added in its own backward.
struct UpdateFeatures : torch::autograd::Function<UpdateFeatures> {
  static variable_list forward(
      AutogradContext* context, const Tensor& first, const Tensor& second, const Tensor& gate, const Tensor& message,
      const Tensor& scalars) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({first, second, gate, message, scalars});
    const Tensor features = call_map(kFeatures, {first, second, gate, message, scalars}, {})[0];
    return {features.view_symint({features.sym_size(0), 6 * features.sym_size(2)}), first, second};
  }

  static variable_list backward(AutogradContext* context, variable_list upstream) {
    variable_list inputs = context->get_saved_variables();
    const Tensor& first = inputs[0];
    upstream[0] = upstream[0].reshape_symint({first.sym_size(0), 6, first.sym_size(2) / 2});
    inputs.insert(inputs.end(), upstream.begin(), upstream.end());
    return call_map(kFeaturesBackward, inputs, {});
  }
};

std::vector<Tensor> map_autograd(int64_t map, at::TensorList inputs, at::TensorList directions) {
  if (directions.empty()) {
    check_map(map);
    return is_backward(map) ? MapBackward::apply(map, inputs) : MapForward::apply(map, inputs);
  }
  for (const at::TensorList tensors : {inputs, directions})
    for (const Tensor& x : tensors)
      TORCH_CHECK_NOT_IMPLEMENTED(
          !(at::GradMode::is_enabled() && x.requires_grad()), "degree_map: third derivatives are not implemented");
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_map(map, inputs, directions);
}

// ---- the ops of the layers -----------------------------------------------------------------------------------

void check_pairs(const char* name, const Tensor& first, const Tensor& second) {
  TORCH_CHECK_VALUE(
      first.dim() == 3 && first.sym_size(1) == 3 && second.dim() == 3 && second.sym_size(1) == 5 &&
          first.sym_size(2) % 2 == 0,
      name, ": features have shapes ", first.sym_sizes(), " and ", second.sym_sizes(),
      ", expected (N, 3, 2 d) and (N, 5, 2 d)");
}

void check_gates(const char* name, const Tensor& gates, const Tensor& first, int64_t per_channel) {
  TORCH_CHECK_VALUE(
      gates.dim() == 2 && gates.sym_size(1) * 2 == first.sym_size(2) * per_channel, name, ": gates have shape ",
      gates.sym_sizes(), " beside features of shape ", first.sym_sizes(), ", expected (N, ", per_channel, " d)");
}

Tensor degree_invariants(const Tensor& first, const Tensor& second) {
  check_pairs("degree_invariants", first, second);
  return call_map(kInvariants, {first, second}, {})[0];
}

std::tuple<Tensor, Tensor> degree_products(const Tensor& first, const Tensor& second) {
  check_pairs("degree_products", first, second);
  const std::vector<Tensor> results = call_map(kProducts, {first, second}, {});
  return {results[0], results[1]};
}

std::tuple<Tensor, Tensor> degree_gates(
    const Tensor& gates, const Tensor& invariants, const Tensor& first, const Tensor& second,
    const std::optional<Tensor>& product) {
  check_pairs("degree_gates", first, second);
  check_gates("degree_gates", gates, first, product ? 9 : 5);
  const std::vector<Tensor> results = product
      ? call_map(kProductGates, {gates, invariants, first, second, *product}, {})
      : call_map(kGates, {gates, invariants, first, second}, {});
  return {results[0], results[1]};
}

std::tuple<Tensor, Tensor, Tensor> degree_features(
    const Tensor& first, const Tensor& second, const Tensor& message, const Tensor& scalars,
    const std::optional<Tensor>& gate) {
  check_pairs("degree_features", first, second);
  for (const Tensor* given : {&message, &scalars})
    TORCH_CHECK_VALUE(
        given->dim() == 2 && 2 * given->sym_size(1) == first.sym_size(2),
        "degree_features: messages or scalars have shape ", given->sym_sizes(), " beside features of shape ",
        first.sym_sizes(), ", expected (N, d)");
  const variable_list results =
      UpdateFeatures::apply(first, second, gate ? *gate : at::ones_like(message), message, scalars);
  return {results[0], results[1], results[2]};
}

std::tuple<Tensor, Tensor> degree_update(
    const Tensor& gates, const Tensor& first, const Tensor& second, const Tensor& scalars, const Tensor& vector) {
  check_pairs("degree_update", first, second);
  check_gates("degree_update", gates, first, 9);
  const std::vector<Tensor> results = call_map(kUpdate, {gates, first, second, scalars, vector}, {});
  return {results[0], results[1]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(dkmp_plugin, library) {
  library.def("degree_map(int map, Tensor[] inputs, Tensor[] directions) -> Tensor[]");
  library.def("degree_products(Tensor first, Tensor second) -> (Tensor, Tensor)", degree_products);
  library.def("degree_invariants(Tensor first, Tensor second) -> Tensor", degree_invariants);
  library.def(
      "degree_gates(Tensor gates, Tensor invariants, Tensor first, Tensor second, Tensor? product=None)"
      " -> (Tensor, Tensor)",
      degree_gates);
  library.def(
      "degree_features(Tensor(a) first, Tensor(b) second, Tensor message, Tensor scalars, Tensor? gate=None)"
      " -> (Tensor, Tensor(a), Tensor(b))",
      degree_features);
  library.def(
      "degree_update(Tensor gates, Tensor first, Tensor second, Tensor scalars, Tensor vector) -> (Tensor, Tensor)",
      degree_update);
}
TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CPU_KEY, library) { library.impl("degree_map", map_cpu); }
TORCH_LIBRARY_IMPL(dkmp_plugin, Meta, library) { library.impl("degree_map", degree_map_results); }
TORCH_LIBRARY_IMPL(dkmp_plugin, Autograd, library) { library.impl("degree_map", map_autograd); }

}  // namespace dkmp
