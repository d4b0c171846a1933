// dkmp_plugin::radius_shells: all pairs within a cutoff, sorted by distance shell, receiver, sender, image.
// Integer results only, so no autograd: distances are rebuilt from the positions by edge_vectors.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "checks.h"
#include "free_memory.h"
#include "keys.h"
#include "neighbor_grid.h"
#include "sorted_set.h"
#include "systems.h"

namespace dkmp {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
constexpr const char* kName = "radius_shells";
// Receivers per chunk: few in small systems, so that threads get equal shares.
constexpr int64_t kFewestReceivers = 8, kMostReceivers = 64, kChunks = 64;
constexpr double kBytesPerEdge = 2 * sizeof(int64_t) + 3 * sizeof(int32_t);
// While sorting, an edge is held a second time in compact form.
constexpr double kWorkBytesPerEdge = 16.0;

// Borders of the shells in the precision of the positions: shell l holds from[l] <= r < to[l].
template <class Scalar>
struct Shells {
  std::vector<Scalar> from, to;

  Shells(double cutoff, int64_t count, double overlap) : from(count), to(count) {
    for (int64_t l = 0; l < count; ++l) {
      from[l] = l == 0 ? Scalar(0) : Scalar(cutoff * double(l) / double(count) - 0.5 * overlap);
      to[l] = l + 1 == count ? std::numeric_limits<Scalar>::infinity()
                             : Scalar(cutoff * double(l + 1) / double(count) + 0.5 * overlap);
    }
  }

  // Shells [first, last] hold this distance: one, or two where shells overlap.
  void locate(Scalar distance, Scalar per_width, int16_t* first, int16_t* last) const {
    const int64_t count = int64_t(from.size());
    int64_t l = std::min<int64_t>(int64_t(distance * per_width), count - 1);
    while (l > 0 && distance < to[l - 1]) --l;
    while (distance >= to[l]) ++l;
    *first = int16_t(l);
    while (l + 1 < count && distance >= from[l + 1]) ++l;
    *last = int16_t(l);
  }
};

struct FoundEdge {
  int sender;
  int16_t first_shell, last_shell;
};

// Edges of a run of receivers, in final order but for the shells.
struct Chunk {
  int64_t system, begin, end;  // receivers, as indices of the whole batch
  std::vector<FoundEdge> edges;
  std::vector<uint64_t> offsets;
};

struct Settings {
  double cutoff;
  int64_t num_shells;
  double overlap;
  int64_t max_neighbors;
  bool periodic;
  std::optional<int64_t> max_edges;  // the result then has exactly so many edges, padded

  double reach() const { return std::min(cutoff, kLongestReach); }
};

[[noreturn]] void refuse_edge_count(double count) {
  TORCH_CHECK_VALUE(
      false, kName, ": the cutoff gives about ", count, " edges, which need about ",
      count * (kBytesPerEdge + kWorkBytesPerEdge) / 1e9, " GB of memory, more than the ", free_memory() / 1e9,
      " GB that are free; use a smaller cutoff or fewer atoms");
}

// Neighbours of one atom in order of sender and image; keeps its scratch memory between atoms.
template <class Scalar>
class SortedNeighbors {
 public:
  SortedNeighbors(int64_t num_atoms, double reach) : reach_(reach), senders_(num_atoms), last_(num_atoms) {}

  const std::vector<Neighbor<Scalar>>& of(const NeighborGrid<Scalar>& grid, int64_t atom) {
    found_.clear();
    previous_.clear();
    grid.search(atom, reach_, candidates_, [&](const Neighbor<Scalar>& neighbor) {
      previous_.push_back(senders_.insert(neighbor.atom) ? -1 : last_[neighbor.atom]);
      last_[neighbor.atom] = int(found_.size());
      found_.push_back(neighbor);
    });
    sorted_.clear();
    senders_.drain([&](int64_t sender) {
      const size_t first = sorted_.size();
      for (int k = last_[sender]; k >= 0; k = previous_[k]) sorted_.push_back(found_[k]);
      if (sorted_.size() - first > 1)
        std::sort(sorted_.begin() + first, sorted_.end(), [](const Neighbor<Scalar>& a, const Neighbor<Scalar>& b) {
          return a.offset < b.offset;
        });
    });
    return sorted_;
  }

 private:
  double reach_;
  SortedSet senders_;
  // Images of one sender form a chain through found_: the last one found, and the one before each.
  std::vector<int> last_, previous_, candidates_;
  std::vector<Neighbor<Scalar>> found_, sorted_;
};

template <class Scalar>
class ShellSearch {
 public:
  ShellSearch(
      const Tensor& pos, std::vector<System> systems, const OptionalTensor& box, const Settings& settings)
      : settings_(settings),
        num_atoms_(pos.size(0)),
        systems_(std::move(systems)),
        shells_(settings.cutoff, settings.num_shells, settings.overlap),
        counts_(num_atoms_ * settings.num_shells, 0) {
    const Scalar* p = pos.const_data_ptr<Scalar>();
    const Scalar* boxes = box ? box->const_data_ptr<Scalar>() : nullptr;
    const bool single = box && box->numel() == 9;
    double expected = 0.0;
    for (size_t s = 0; s < systems_.size(); ++s) {
      const System& system = systems_[s];
      const Scalar* cell = box ? boxes + (single ? 0 : 9 * system.index) : nullptr;
      grids_.emplace_back(p + 3 * system.first_atom, system.num_atoms, cell, settings.reach(), settings.reach());
      const NeighborGrid<Scalar>& grid = grids_.back();
      const double density = double(system.num_atoms) / grid.volume();
      expected += 4.19 * std::pow(settings.cutoff, 3) * density * double(system.num_atoms);
      TORCH_CHECK_VALUE(
          grid.offsets_fit(), kName, ": system ", system.index,
          " has atoms or a cutoff more than 500,000 periodic boxes away; wrap the positions into the box");
      check_flatness(kName, grid, settings.reach());
      add_chunks(int64_t(s));
    }
    // A machine answers this question slowly (it reads files), so small systems are not held up by it.
    limit_ = num_atoms_ < 2000 && expected < 1e6 ? 1e9 : free_memory() / (kBytesPerEdge + kWorkBytesPerEdge);
    if (expected > limit_) refuse_edge_count(expected);
  }

  void run() {
    at::parallel_for(0, int64_t(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
      std::unique_ptr<SortedNeighbors<Scalar>> neighbors;
      for (int64_t c = begin, system = -1; c < end; ++c) {
        if (chunks_[c].system != system) {
          system = chunks_[c].system;
          neighbors = std::make_unique<SortedNeighbors<Scalar>>(systems_[system].num_atoms, settings_.reach());
        }
        search_chunk(chunks_[c], *neighbors);
      }
    });
    if (settings_.max_neighbors > 0)
      TORCH_CHECK_VALUE(
          most_.load() <= settings_.max_neighbors, kName, ": an atom has ", most_.load(),
          " neighbours within the cutoff of ", settings_.cutoff, ", more than max_neighbors = ",
          settings_.max_neighbors, "; raise max_neighbors to at least ", most_.load(), kTooManyNeighbors);
  }

  std::tuple<Tensor, Tensor, Tensor> collect() {
    const int64_t num_shells = settings_.num_shells;
    Tensor ptr = at::empty({num_shells + 1}, at::kLong);
    int64_t* ends = ptr.data_ptr<int64_t>();
    std::vector<int64_t> next(num_atoms_ * num_shells);
    ends[0] = 0;
    int64_t total = 0;
    for (int64_t l = 0; l < num_shells; ++l) {
      for (int64_t i = 0; i < num_atoms_; ++i) {
        next[i * num_shells + l] = total;
        total += counts_[i * num_shells + l];
      }
      ends[l + 1] = total;
    }
    const int64_t size = settings_.max_edges.value_or(total);
    TORCH_CHECK_VALUE(
        total <= size, kName, ": found ", total, " edges, more than max_edges = ", size,
        "; raise max_edges or reduce the cutoff (of a simulated molecule: the periodic box is narrower than twice "
        "it)");
    Tensor edge_index = at::empty({2, size}, at::kLong);
    // An open system's offsets are all zero: one row stands for all.
    Tensor offsets = settings_.periodic ? at::empty({size, 3}, at::kInt) : at::zeros({1, 3}, at::kInt).expand({size, 3});
    edge_index.slice(1, total).fill_(-1);
    if (settings_.periodic) offsets.slice(0, total).zero_();
    int64_t* receivers = edge_index.data_ptr<int64_t>();
    int* images = settings_.periodic ? offsets.data_ptr<int>() : nullptr;
    at::parallel_for(0, int64_t(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        write_chunk(chunks_[c], next.data(), receivers, receivers + size, images);
    });
    return {edge_index, offsets, ptr};
  }

 private:
  void add_chunks(int64_t s) {
    const int64_t last = systems_[s].first_atom + systems_[s].num_atoms;
    const int64_t size = std::clamp(num_atoms_ / kChunks, kFewestReceivers, kMostReceivers);
    for (int64_t i = systems_[s].first_atom; i < last; i += size)
      chunks_.push_back({s, i, std::min(last, i + size), {}, {}});
  }

  void search_chunk(Chunk& chunk, SortedNeighbors<Scalar>& neighbors) {
    const System& system = systems_[chunk.system];
    const Scalar per_width = Scalar(double(settings_.num_shells) / settings_.cutoff);
    for (int64_t i = chunk.begin; i < chunk.end; ++i) {
      const auto& found = neighbors.of(grids_[chunk.system], i - system.first_atom);
      int* counts = &counts_[i * settings_.num_shells];
      if (chunk.edges.size() + found.size() > chunk.edges.capacity()) reserve(chunk, i, found.size());
      for (const Neighbor<Scalar>& neighbor : found) {
        FoundEdge edge{neighbor.atom + int(system.first_atom), 0, 0};
        shells_.locate(neighbor.distance, per_width, &edge.first_shell, &edge.last_shell);
        for (int l = edge.first_shell; l <= edge.last_shell; ++l) ++counts[l];
        chunk.edges.push_back(edge);
        if (settings_.periodic) chunk.offsets.push_back(neighbor.offset);
      }
      note_count(int64_t(found.size()));
    }
  }

  // Guesses the chunk's final size from the receivers done, so that it grows once instead of by doubling.
  void reserve(Chunk& chunk, int64_t receiver, size_t more) {
    const double done = double(receiver - chunk.begin + 1);
    const double edges = double(chunk.edges.size() + more) / done * double(chunk.end - chunk.begin);
    chunk.edges.reserve(size_t(edges * 1.1) + more);
    if (settings_.periodic) chunk.offsets.reserve(size_t(edges * 1.1) + more);
  }

  void note_count(int64_t count) {
    int64_t most = most_.load(std::memory_order_relaxed);
    while (count > most && !most_.compare_exchange_weak(most, count)) {
    }
    const int64_t all = total_.fetch_add(count, std::memory_order_relaxed) + count;
    if (double(all) > limit_) refuse_edge_count(double(all));
  }

  void write_chunk(Chunk& chunk, int64_t* next, int64_t* receivers, int64_t* senders, int* images) {
    const int64_t num_shells = settings_.num_shells;
    size_t e = 0;
    for (int64_t i = chunk.begin; i < chunk.end; ++i) {
      // Each edge was counted in every shell that lists it; the first shells alone say where the receiver ends.
      int64_t left = 0;
      for (int64_t l = 0; l < num_shells; ++l) left += counts_[i * num_shells + l];
      for (; left > 0; ++e) {
        const FoundEdge& edge = chunk.edges[e];
        for (int l = edge.first_shell; l <= edge.last_shell; ++l, --left) {
          const int64_t at = next[i * num_shells + l]++;
          receivers[at] = i;
          senders[at] = edge.sender;
          if (!images) continue;
          const CellOffset offset = CellOffset::unpack(chunk.offsets[e]);
          for (int k = 0; k < 3; ++k) images[3 * at + k] = offset.n[k];
        }
      }
    }
    chunk.edges = {};
    chunk.offsets = {};
  }

  Settings settings_;
  int64_t num_atoms_;
  std::vector<System> systems_;
  Shells<Scalar> shells_;
  std::vector<int> counts_;  // edges per receiver and shell
  std::vector<NeighborGrid<Scalar>> grids_;
  std::vector<Chunk> chunks_;
  std::atomic<int64_t> most_{0}, total_{0};
  double limit_ = 0.0;
};

void check_settings(const Settings& settings) {
  TORCH_CHECK_VALUE(
      settings.cutoff > 0.0 && std::isfinite(settings.cutoff), kName, ": cutoff is ", settings.cutoff,
      ", expected a positive finite distance in angstrom");
  TORCH_CHECK_VALUE(
      settings.num_shells >= 1 && settings.num_shells < 32768, kName, ": num_shells is ", settings.num_shells,
      ", expected 1 to 32767");
  const double width = settings.cutoff / double(settings.num_shells);
  TORCH_CHECK_VALUE(
      settings.overlap >= 0.0 && settings.overlap <= width * (1.0 + 1e-9), kName, ": overlap is ", settings.overlap,
      ", expected a value between 0 and the shell width cutoff/num_shells = ", width);
  TORCH_CHECK_VALUE(
      !settings.max_edges || *settings.max_edges >= 1, kName, ": max_edges is ", settings.max_edges.value_or(0),
      ", expected at least 1");
}

std::tuple<Tensor, Tensor, Tensor> radius_shells_cpu(
    const Tensor& pos, const Tensor& batch, const OptionalTensor& box, double cutoff, int64_t num_shells,
    double overlap, int64_t max_neighbors, std::optional<int64_t> max_edges) {
  const Settings settings{cutoff, num_shells, overlap, max_neighbors, box.has_value(), max_edges};
  check_positions(kName, pos);
  check_batch(kName, batch, pos.size(0));
  check_settings(settings);
  TORCH_CHECK_VALUE(pos.size(0) < (int64_t(1) << 31), kName, ": more than 2^31 atoms");
  OptionalTensor cells;
  if (box) {
    check_box_shape(kName, *box, pos);
    cells = box->contiguous();
  }
  const Tensor positions = pos.contiguous();
  std::vector<System> systems = split_systems(kName, batch, box);
  return AT_DISPATCH_FLOATING_TYPES(pos.scalar_type(), kName, [&] {
    check_values<scalar_t>(kName, positions, cells);
    ShellSearch<scalar_t> search(positions, std::move(systems), cells, settings);
    search.run();
    return search.collect();
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(dkmp_plugin, library) {
  library.def(
      "radius_shells(Tensor pos, Tensor batch, Tensor? box, float cutoff, int num_shells, float overlap, int "
      "max_neighbors, int? max_edges=None) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(dkmp_plugin, DKMP_CPU_KEY, library) { library.impl("radius_shells", radius_shells_cpu); }

}  // namespace dkmp
