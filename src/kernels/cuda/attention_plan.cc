#include "kernels/cuda/attention_plan.h"

#include <algorithm>

#include "kernels/cuda/int8_config.h"
#include "kernels/cuda/row_mask.h"

namespace turboquant::cuda {
namespace {

// Pages of an item for each warp from which on it is long.
constexpr int kLongPages = 2;
// Longer items than this are better cut up among the slim configuration's more warps: a warp's own
// latency, not memory, is then the limit.
constexpr int kMostWidePages = 160;
// From this many bytes of memory for each clock of an SM on, 8 warps of the slim configuration do
// not keep enough pages in flight, and claiming pages at run time costs more than it evens out. An
// H200 has 19, an H100 or A100 13.
constexpr int kFastMemory = 16;
constexpr int kMostWideWaves = 4;
// Pages up to this size are unpacked from rows by as many CTAs as an SM holds, where memory is
// fast.
constexpr int kSmallRecord = 6656;

bool HasFastMemory(const tq_cuda_plan_request& r) { return r.bytes_per_clock >= kFastMemory; }

int CeilDiv(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Work of one sequence: pages its window reaches, and items of exact rows.
struct Sequence {
  int first_page = 0;
  int pages = 0;
  int exact_items = 0;
  int splits = 0;  // of the pages
};

int TotalLength(const tq_cuda_plan_request& r, int b) {
  return r.total_len != nullptr ? r.total_len[b] : r.coded_begin + r.coded_len[b];
}

Sequence Measure(const tq_cuda_plan_request& r, int b) {
  Sequence s;
  const int pages = CeilDiv(r.coded_len[b], kTileTokens);
  if (r.window > 0) {
    const int begin = TotalLength(r, b) - r.q_len - r.window + 1 - r.coded_begin;
    s.first_page = std::clamp(begin / kTileTokens, 0, pages);
  }
  s.pages = pages - s.first_page;
  if (r.exact_len != nullptr) s.exact_items = CeilDiv(r.exact_len[b], kExactRowsPerItem);
  return s;
}

struct Shape {
  int tiles;  // column blocks of the int8 path
  int row_tile;
  int row_tiles;
  Int8Config wide, slim;            // of the int8 path
  Int8Config wide_long, slim_long;  // in their place where items are long; 0 warps: none
};

Int8Config ConfigOf(const tq_cuda_plan_request& r, int tiles, int index) {
  return Int8ConfigOf(r.k_format, r.v_format, r.head_dim, tiles, index);
}

// Shared memory of a CTA; whether there are key means is not known here.
int SharedBytes(const tq_cuda_plan_request& r, int tiles, const Int8Config& c) {
  const int stage = StageBytes(r.k_format, r.v_format, r.head_dim, true);
  const Int8Memory m = Int8MemoryOf(c, stage, TableBytes(r.k_format), r.head_dim, tiles);
  return m.dynamic_bytes + m.static_bytes;
}

bool Fits(const tq_cuda_plan_request& r, int tiles, const Int8Config& c) {
  return c.warps > 0 && SharedBytes(r, tiles, c) <= r.smem_per_block;
}

// CTAs that an SM holds; each costs 1 KiB more than it asks for.
int Resident(const tq_cuda_plan_request& r, int tiles, const Int8Config& c) {
  return std::clamp(r.smem_per_sm / (SharedBytes(r, tiles, c) + 1024), 1, c.ctas_per_sm);
}

// Column blocks of the int8 kernel for `rows` query rows; 0: it does not serve this request.
int TilesOf(const tq_cuda_plan_request& r, int rows) {
  for (int most = rows; most > 0; most -= kRowsPerTile) {
    const int tiles = Int8Tiles(r.k_format, r.v_format, r.head_dim, most);
    if (tiles > 0 && Fits(r, tiles, ConfigOf(r, tiles, kSlimConfig))) return tiles;
  }
  return 0;
}

Shape ShapeOf(const tq_cuda_plan_request& r, int path) {
  const int rows = r.group * r.q_len;
  Shape s{};
  if (path == TQ_CUDA_PATH_PAIR) {
    s.row_tile = kPairRows;
  } else {
    const int tiles = TilesOf(r, rows);
    s.tiles = tiles;
    s.row_tile = tiles * kRowsPerTile;
    s.wide = ConfigOf(r, tiles, kWideConfig);
    s.slim = ConfigOf(r, tiles, kSlimConfig);
    s.wide_long = ConfigOf(r, tiles, kWideLongConfig);
    s.slim_long = ConfigOf(r, tiles, kSlimLongConfig);
    for (Int8Config* c : {&s.wide, &s.wide_long, &s.slim_long}) {
      if (!Fits(r, tiles, *c)) *c = {0, 0, 0};
    }
  }
  s.row_tiles = CeilDiv(rows, s.row_tile);
  return s;
}

int64_t ItemsAt(const std::vector<Sequence>& sequences, int pages_per_item, int head_tiles) {
  int64_t items = 0;
  for (const Sequence& s : sequences) {
    items += std::max(1, CeilDiv(s.pages, pages_per_item)) + s.exact_items;
  }
  return items * head_tiles;
}

// The fewest pages an item can have so that all items run at once; at least `least`.
int PagesPerItem(const std::vector<Sequence>& sequences, int head_tiles, int slots, int least) {
  int low = least, high = least;
  for (const Sequence& s : sequences) high = std::max(high, s.pages);
  if (ItemsAt(sequences, high, head_tiles) > slots) {
    // More sequences and heads than slots: cut only what is far above the average.
    int64_t pages = 0;
    for (const Sequence& s : sequences) pages += s.pages;
    return std::max<int>(least, CeilDiv(pages * head_tiles, slots));
  }
  while (low < high) {
    const int middle = (low + high) / 2;
    if (ItemsAt(sequences, middle, head_tiles) <= slots) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// Splits of equal sequences for a grid of `slots` CTAs.
int EvenSplits(const Sequence& s, int heads, int slots, int least_pages) {
  const int room = slots / heads - s.exact_items;
  const int most = std::max(1, s.pages / std::max(1, least_pages));
  return std::clamp(room, 1, std::min(most, kMaxPartials - 1));
}

struct Schedule {
  int config;
  int slots;    // CTAs to cut the work up for
  int least;    // pages of an item, if there are so many
  int dynamic;  // 1: pages claimed at run time even out many items; the order of sums then varies
};

// One wide CTA an SM is best for equal sequences if it leaves few SMs idle, and where memory is
// fast and sequences are long, one for each of many, some after others. False: it is not.
bool ChooseWide(const tq_cuda_plan_request& r, const Shape& shape, const Sequence& s, int heads,
                Schedule* out) {
  if (shape.wide.warps == 0) return false;
  const bool fast = HasFastMemory(r);
  const int most = fast && s.exact_items == 0 ? kMostWideWaves : 1;
  for (int waves = 1; waves <= most; ++waves) {
    const int slots = waves * r.num_sms;
    const int splits = EvenSplits(s, heads, slots, shape.wide.warps);
    const int ctas = heads * (splits + s.exact_items);
    // With exact rows that holds only where their item is one of many.
    const bool few_exact = s.exact_items == 0 || splits >= 8;
    const bool is_long =
        shape.wide_long.warps > 0 && s.pages >= kLongPages * shape.wide_long.warps * splits;
    // Where long items have no configuration of their own, the slim one is as good, but for pages
    // so large that its warps are few.
    const bool is_short = s.pages <= kMostWidePages * splits;
    const bool large = fast && r.k_format == TQ_CUDA_TURBO8 && r.v_format == TQ_CUDA_TURBO8;
    const bool served = waves == 1 ? is_long || is_short || large : is_long && splits == 1;
    if (few_exact && served && ctas <= slots && ctas * 20 >= slots * 17) {
      *out = {is_long ? kWideLongConfig : kWideConfig, slots, shape.wide.warps,
              large && !is_short ? 1 : 0};
      return true;
    }
  }
  return false;
}

// Of the int8 path, by the rule that bench/cuda_sweep.cuh found on an H100 and an H200.
Schedule ChooseSchedule(const tq_cuda_plan_request& r, const Shape& shape,
                        const std::vector<Sequence>& sequences, bool even, int heads) {
  Schedule schedule{};
  if (even && ChooseWide(r, shape, sequences[0], heads, &schedule)) return schedule;
  const bool fast = HasFastMemory(r);
  const bool is_long = shape.slim_long.warps > 0;
  const Int8Config slim = is_long ? shape.slim_long : shape.slim;
  schedule.config = is_long ? kSlimLongConfig : kSlimConfig;
  schedule.slots = r.num_sms * Resident(r, shape.tiles, slim);
  // Equal long items of 3 and 4 bits want no more neighbours than that on an SM, nor do equal items
  // whose codes are unpacked from rows.
  const bool few = is_long && r.k_format > TQ_CUDA_TURBO2 && !fast;
  const bool unpacked = OrderOf(TileFormatOf(r.k_format), r.head_dim) == TileOrder::kRows &&
                        !(fast && RecordBytes(r.k_format, r.v_format, r.head_dim) <= kSmallRecord);
  if (even && (few || unpacked)) schedule.slots = std::min(schedule.slots, 2 * r.num_sms);
  schedule.least = slim.warps;
  // Where memory is fast, claiming pages pays for few shapes: those with few warps an SM.
  const bool claims = fast && even ? r.head_dim == 256 && shape.tiles == 1 : is_long;
  schedule.dynamic = claims || r.k_format == TQ_CUDA_TURBO8 ? 1 : 0;
  return schedule;
}

void AppendItems(const std::vector<Sequence>& sequences, const tq_cuda_plan_request& r,
                 int head_tiles, std::vector<tq_cuda_item>* items) {
  int partial = 0;
  for (int b = 0; b < static_cast<int>(sequences.size()); ++b) {
    const Sequence& s = sequences[static_cast<size_t>(b)];
    const int partials = s.splits + s.exact_items;
    for (int head = 0; head < head_tiles; ++head) {
      for (int i = 0; i < partials; ++i) {
        tq_cuda_item item{};
        item.sequence = b;
        item.head_tile = head;
        item.first_partial = partial;
        item.partials = partials;
        item.partial = partial + i;
        if (i < s.splits) {
          item.begin = s.first_page + SplitBegin(i, s.pages / s.splits, s.pages % s.splits);
          item.end = s.first_page + SplitBegin(i + 1, s.pages / s.splits, s.pages % s.splits);
        } else {
          item.exact = 1;
          item.begin = (i - s.splits) * kExactRowsPerItem;
          item.end = std::min(item.begin + kExactRowsPerItem, r.exact_len[b]);
        }
        items->push_back(item);
      }
      partial += partials;
    }
  }
  // Longest first: the tail of the grid is then made of short items. Stable, so reproducible.
  std::stable_sort(items->begin(), items->end(), [](const tq_cuda_item& x, const tq_cuda_item& y) {
    return x.end - x.begin > y.end - y.begin;
  });
}

}  // namespace

bool ParseTileFormat(int format, TileFormat* out) {
  switch (format) {
    case TQ_CUDA_TURBO2:
    case TQ_CUDA_TURBO3:
    case TQ_CUDA_TURBO4:
    case TQ_CUDA_TURBO8:
      *out = {format, false};
      return true;
    case TQ_CUDA_TURBO2T:
    case TQ_CUDA_TURBO3T:
    case TQ_CUDA_TURBO4T:
      *out = {format - 16, true};
      return true;
    default:
      return false;
  }
}

bool SupportedTileHeadDim(int d) {
  return d == 64 || d == 80 || d == 96 || d == 128 || d == 192 || d == 256;
}

size_t TicketBytes(int batch, int head_tiles) {
  return (static_cast<size_t>(batch) * head_tiles * 8 + 255) / 256 * 256;
}

std::string WhyUnsupported(const tq_cuda_plan_request& r) {
  TileFormat f;
  if (!ParseTileFormat(r.k_format, &f) || !ParseTileFormat(r.v_format, &f)) {
    return "The cache formats of CUDA are turbo2, turbo3, turbo4, turbo8, turbo2t, turbo3t and "
           "turbo4t.";
  }
  if (!SupportedTileHeadDim(r.head_dim)) {
    return "head_dim is " + std::to_string(r.head_dim) +
           "; it must be 64, 80, 96, 128, 192 or 256.";
  }
  if (r.group < 1 || r.group > 16) {
    return "There are " + std::to_string(r.group) +
           " query heads for each kv head; 1 to 16 are served.";
  }
  if (r.q_len < 1 || r.q_len > kMaxQueryTokens) {
    return "q_len is " + std::to_string(r.q_len) +
           "; decode attention takes 1 to 16 query tokens, use prefill for more.";
  }
  if (r.batch < 1 || r.num_kv_heads < 1 || r.coded_len == nullptr) {
    return "batch and num_kv_heads must be at least 1, and coded_len must be given.";
  }
  for (int b = 0; b < r.batch; ++b) {
    if (r.coded_len[b] < 0 || (r.exact_len != nullptr && r.exact_len[b] < 0)) {
      return "Sequence " + std::to_string(b) + " has a negative length.";
    }
    if (r.exact_len != nullptr && r.exact_len[b] > kExactRowsPerItem * 16) {
      return "Sequence " + std::to_string(b) + " has more than 4096 exact rows; encode some first.";
    }
  }
  if (r.window < 0) return "window is negative; 0 means no window.";
  if (r.num_sms < 1 || r.smem_per_block < 48 * 1024) {
    return "The device is not described; fill the request from tq_cuda_query_device.";
  }
  if (r.path == TQ_CUDA_PATH_INT8 && TilesOf(r, r.group * r.q_len) == 0) {
    return "The int8 kernel has no instance of these formats, or none at this head_dim "
           "(docs/CUDA.md "
           "has the table); choose the path automatically.";
  }
  return "";
}

int ChoosePath(const tq_cuda_plan_request& r) {
  if (r.path != TQ_CUDA_PATH_AUTO) return r.path;
  return TilesOf(r, r.group * r.q_len) > 0 ? TQ_CUDA_PATH_INT8 : TQ_CUDA_PATH_PAIR;
}

AttentionPlan PlanAttention(const tq_cuda_plan_request& r, const PlanChoice& choice) {
  AttentionPlan result;
  tq_cuda_plan& plan = result.plan;
  plan.path = ChoosePath(r);
  const Shape shape = ShapeOf(r, plan.path);
  plan.row_tile = shape.row_tile;
  plan.row_tiles = shape.row_tiles;
  const int head_tiles = r.num_kv_heads * shape.row_tiles;

  std::vector<Sequence> sequences;
  bool even = true;
  for (int b = 0; b < r.batch; ++b) {
    sequences.push_back(Measure(r, b));
    const Sequence& s = sequences.back();
    const Sequence& first = sequences.front();
    even = even && s.pages == first.pages && s.first_page == first.first_page &&
           s.exact_items == first.exact_items && s.exact_items <= 1 &&
           (r.exact_len == nullptr || r.exact_len[b] == r.exact_len[0]);
  }

  const int heads = r.batch * head_tiles;
  Schedule schedule{0, 3 * r.num_sms, 2, 0};  // the pair path's: 3 CTAs an SM
  if (plan.path == TQ_CUDA_PATH_INT8) schedule = ChooseSchedule(r, shape, sequences, even, heads);
  plan.config = schedule.config;
  plan.dynamic = r.reproducible == 0 ? schedule.dynamic : 0;
  if (choice.config >= 0) {
    plan.config = choice.config;
    plan.dynamic = choice.dynamic;
  }

  if (even) {
    for (Sequence& s : sequences) {
      s.splits = choice.splits > 0 ? std::min(choice.splits, std::max(1, s.pages))
                                   : EvenSplits(s, heads, schedule.slots, schedule.least);
    }
  } else {
    const int pages = PagesPerItem(sequences, head_tiles, schedule.slots, schedule.least);
    for (Sequence& s : sequences) {
      s.splits = std::clamp(CeilDiv(s.pages, pages), 1, kMaxPartials - s.exact_items);
    }
  }
  AppendItems(sequences, r, head_tiles, &result.items);
  plan.num_items = static_cast<int>(result.items.size());
  plan.uniform = even ? 1 : 0;
  if (even) {
    plan.splits = sequences[0].splits + sequences[0].exact_items;
    plan.first_page = sequences[0].first_page;
    plan.split_pages = sequences[0].pages / sequences[0].splits;
    plan.split_extra = sequences[0].pages % sequences[0].splits;
    plan.exact_rows = sequences[0].exact_items > 0 ? r.exact_len[0] : 0;
  }
  plan.num_partials = plan.num_items;
  plan.workspace_bytes = TicketBytes(r.batch, head_tiles) + static_cast<size_t>(plan.num_partials) *
                                                                PartialFloats(plan, r.head_dim) *
                                                                sizeof(float);
  return result;
}

}  // namespace turboquant::cuda
