#include "codec/codec_spec.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <utility>

#include "codec/format.h"

namespace turboquant {
namespace {

constexpr std::string_view kScalarKeys = "rotation seed scale codebook ";
constexpr std::string_view kProductKeys = "rotation seed scale codebook projection ";
constexpr std::string_view kFractionalKeys = "rotation seed scale codebook split channels ";
constexpr std::string_view kTrellisKeys = "rotation seed scale states ";
constexpr std::string_view kUniformKeys = "rotation seed scale ";
constexpr std::string_view kGroupKeys = "rotation seed group ";
constexpr std::string_view kPlainKeys = "rotation seed ";

constexpr CodecEntry kRegistry[] = {
    {"turbo1", CodecFamily::kScalar, 1, kScalarKeys, "Lloyd-Max, 1 bit"},
    {"turbo2", CodecFamily::kScalar, 2, kScalarKeys, "Lloyd-Max, 2 bits"},
    {"turbo3", CodecFamily::kScalar, 3, kScalarKeys, "Lloyd-Max, 3 bits"},
    {"turbo4", CodecFamily::kScalar, 4, kScalarKeys, "Lloyd-Max, 4 bits"},
    {"turbo8", CodecFamily::kScalar, 8, kScalarKeys, "Lloyd-Max, 8 bits"},
    {"turbo2t", CodecFamily::kTrellis, 2, kTrellisKeys, "trellis, 2 bits"},
    {"turbo3t", CodecFamily::kTrellis, 3, kTrellisKeys, "trellis, 3 bits"},
    {"turbo4t", CodecFamily::kTrellis, 4, kTrellisKeys, "trellis, 4 bits"},
    {"turbo2.5", CodecFamily::kFractional, 2, kFractionalKeys, "2 and 3 bits, half and half"},
    {"turbo3.5", CodecFamily::kFractional, 3, kFractionalKeys, "3 and 4 bits, half and half"},
    {"turbo2q", CodecFamily::kProduct, 2, kProductKeys, "1 bit and 1 sign, unbiased"},
    {"turbo3q", CodecFamily::kProduct, 3, kProductKeys, "2 bits and 1 sign, unbiased"},
    {"turbo4q", CodecFamily::kProduct, 4, kProductKeys, "3 bits and 1 sign, unbiased"},
    {"f16", CodecFamily::kHalf, 16, kPlainKeys, "fp16"},
    {"uniform2", CodecFamily::kUniform, 2, kUniformKeys, "evenly spaced, 2 bits"},
    {"uniform3", CodecFamily::kUniform, 3, kUniformKeys, "evenly spaced, 3 bits"},
    {"uniform4", CodecFamily::kUniform, 4, kUniformKeys, "evenly spaced, 4 bits"},
    {"uniform8", CodecFamily::kUniform, 8, kUniformKeys, "evenly spaced, 8 bits"},
    {"kivi2", CodecFamily::kAffine, 2, kGroupKeys, "groups of scale and zero, 2 bits"},
    {"kivi3", CodecFamily::kAffine, 3, kGroupKeys, "groups of scale and zero, 3 bits"},
    {"kivi4", CodecFamily::kAffine, 4, kGroupKeys, "groups of scale and zero, 4 bits"},
    {"kivi8", CodecFamily::kAffine, 8, kGroupKeys, "groups of scale and zero, 8 bits"},
    {"nf4", CodecFamily::kNormal, 4, kGroupKeys, "NF4 in groups"},
    {"q4_0", CodecFamily::kBlock, 4, kPlainKeys, "as ggml's q4_0"},
    {"q8_0", CodecFamily::kBlock, 8, kPlainKeys, "as ggml's q8_0"},
};

// The words of an option, in the order of its enum.
using Words = std::span<const std::string_view>;
constexpr std::string_view kRotations[] = {"wht", "haar", "none"};
constexpr std::string_view kScales[] = {"ls", "norm", "matched", "unbiased"};
constexpr std::string_view kCodebooks[] = {"gauss", "beta"};
constexpr std::string_view kProjections[] = {"orthogonal", "gaussian"};
constexpr std::string_view kSplits[] = {"half", "outlier"};

bool Takes(const CodecEntry& entry, std::string_view key) {
  size_t at = 0;
  while (at < entry.keys.size()) {
    const size_t end = entry.keys.find(' ', at);
    if (entry.keys.substr(at, end - at) == key) return true;
    at = end + 1;
  }
  return false;
}

std::string Quoted(std::string_view text) {
  std::string quoted("'");
  quoted.append(text.substr(0, 60));
  quoted.push_back('\'');
  return quoted;
}

template <typename T>
bool ParseNumber(std::string_view text, T* value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  return !text.empty() && error == std::errc() && stop == end && text[0] != '-';
}

template <typename E>
Status ParseWord(Words words, std::string_view key, std::string_view value, E* out) {
  std::string known;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == value) {
      *out = static_cast<E>(i);
      return OkStatus();
    }
    if (i > 0) known.append(i + 1 == words.size() ? " or " : ", ");
    known.append(words[i]);
  }
  return InvalidArgument(std::string(key) + "=" + Quoted(value) + " is unknown: use " + known +
                         ".");
}

Status ParsePower(std::string_view key, std::string_view value, int least, int most, int* out) {
  int number = 0;
  if (ParseNumber(value, &number) && number >= least && number <= most &&
      (number & (number - 1)) == 0) {
    *out = number;
    return OkStatus();
  }
  return InvalidArgument(std::string(key) + "=" + Quoted(value) + " must be a power of two from " +
                         std::to_string(least) + " to " + std::to_string(most) + ".");
}

// "3+8-15": ascending, without repetition.
Status ParseChannels(std::string_view value, std::vector<int>* out) {
  out->clear();
  bool valid = !value.empty();
  while (valid && !value.empty()) {
    const size_t end = std::min(value.find('+'), value.size());
    const std::string_view range = value.substr(0, end);
    const size_t dash = std::min(range.find('-'), range.size());
    int first = 0;
    valid = ParseNumber(range.substr(0, dash), &first);
    int last = first;
    if (dash < range.size()) valid = valid && ParseNumber(range.substr(dash + 1), &last);
    valid = valid && first <= last && last < kMaxHeadDim && (out->empty() || first > out->back());
    for (int i = first; valid && i <= last; ++i) out->push_back(i);
    valid = valid && end + 1 != value.size();
    value.remove_prefix(std::min(end + 1, value.size()));
  }
  if (valid && out->size() % 16 == 0) return OkStatus();
  return InvalidArgument(
      "channels must be ascending ranges of a multiple of 16 channels, e.g. channels=0-15+40-55.");
}

std::string ChannelsText(const std::vector<int>& channels) {
  std::string text;
  for (size_t i = 0; i < channels.size();) {
    size_t end = i + 1;
    while (end < channels.size() && channels[end] == channels[end - 1] + 1) ++end;
    if (!text.empty()) text.push_back('+');
    text.append(std::to_string(channels[i]));
    if (end - i > 1) text.append("-").append(std::to_string(channels[end - 1]));
    i = end;
  }
  return text;
}

Status ParseOption(std::string_view key, std::string_view value, CodecSpec* spec) {
  if (key == "rotation") return ParseWord(kRotations, key, value, &spec->rotation);
  if (key == "scale") return ParseWord(kScales, key, value, &spec->scale);
  if (key == "codebook") return ParseWord(kCodebooks, key, value, &spec->codebook);
  if (key == "projection") return ParseWord(kProjections, key, value, &spec->projection);
  if (key == "split") return ParseWord(kSplits, key, value, &spec->split);
  if (key == "states") return ParsePower(key, value, 4, 256, &spec->states);
  if (key == "group") return ParsePower(key, value, 16, 512, &spec->group);
  if (key == "channels") return ParseChannels(value, &spec->channels);
  if (ParseNumber(value, &spec->seed)) return OkStatus();
  return InvalidArgument("seed=" + Quoted(value) + " must be a whole number below 2^64.");
}

std::string OptionText(std::string_view key, const CodecSpec& spec) {
  const auto word = [](Words words, auto value) {
    return std::string(words[static_cast<size_t>(value)]);
  };
  if (key == "rotation") return word(kRotations, spec.rotation);
  if (key == "scale") return word(kScales, spec.scale);
  if (key == "codebook") return word(kCodebooks, spec.codebook);
  if (key == "projection") return word(kProjections, spec.projection);
  if (key == "split") return word(kSplits, spec.split);
  if (key == "states") return std::to_string(spec.states);
  if (key == "group") return std::to_string(spec.group);
  if (key == "channels") return ChannelsText(spec.channels);
  return std::to_string(spec.seed);
}

}  // namespace

std::span<const CodecEntry> CodecRegistry() { return kRegistry; }

CodecSpec DefaultCodecSpec(std::string_view name) {
  CodecSpec spec;
  for (const CodecEntry& entry : kRegistry) {
    if (entry.name == name) spec.entry = &entry;
  }
  if (spec.entry == nullptr) return spec;
  if (spec.entry->family >= CodecFamily::kUniform) spec.rotation = RotationKind::kNone;
  if (spec.entry->family == CodecFamily::kTrellis && spec.entry->bits == 2) spec.states = 64;
  if (spec.entry->family == CodecFamily::kNormal) spec.group = 64;
  return spec;
}

Result<CodecSpec> ParseCodecSpec(std::string_view text) {
  const size_t colon = std::min(text.find(':'), text.size());
  CodecSpec spec = DefaultCodecSpec(text.substr(0, colon));
  if (spec.entry == nullptr) {
    std::string names;
    for (const CodecEntry& entry : kRegistry) {
      if (!names.empty()) names.append(", ");
      names.append(entry.name);
    }
    return InvalidArgument("unknown codec " + Quoted(text.substr(0, colon)) + ": use one of " +
                           names + ".");
  }
  if (colon == text.size()) return spec;
  std::string seen = " ";
  std::string_view rest = text.substr(colon + 1);
  bool more = true;
  while (more) {
    const size_t end = std::min(rest.find(','), rest.size());
    const std::string_view option = rest.substr(0, end);
    more = end < rest.size();
    rest.remove_prefix(more ? end + 1 : end);
    const size_t equals = std::min(option.find('='), option.size());
    const std::string key(option.substr(0, equals));
    if (equals == option.size() || !Takes(*spec.entry, key)) {
      return InvalidArgument(std::string(spec.entry->name) + " has no option " + Quoted(option) +
                             ": it takes " + std::string(spec.entry->keys) + "as key=value.");
    }
    std::string word(" ");
    word.append(key).push_back(' ');
    if (seen.find(word) != std::string::npos) {
      return InvalidArgument("the option " + key + " is given twice in " + Quoted(text) + ".");
    }
    seen.append(key).push_back(' ');
    const Status status = ParseOption(key, option.substr(equals + 1), &spec);
    if (!status.ok()) return status;
  }
  if (!spec.channels.empty() && spec.split != SplitKind::kOutlier) {
    return InvalidArgument("channels needs split=outlier in " + Quoted(text) + ".");
  }
  return spec;
}

TrellisView TrellisOf(const CodecSpec& spec) {
  int memory = kTrellisMinMemory;
  while (1 << memory < spec.states) ++memory;
  return Trellis(spec.entry->bits, memory);
}

int OutlierChannels(const CodecSpec& spec, int head_dim) {
  if (!spec.channels.empty()) return static_cast<int>(spec.channels.size());
  return std::max(16, head_dim / 64 * 16);
}

std::string CodecSpecText(const CodecSpec& spec) {
  const CodecSpec standard = DefaultCodecSpec(spec.entry->name);
  std::string text(spec.entry->name);
  char separator = ':';
  for (std::string_view key : {"rotation", "seed", "scale", "codebook", "states", "projection",
                               "split", "channels", "group"}) {
    if (!Takes(*spec.entry, key)) continue;
    const std::string value = OptionText(key, spec);
    if (value == OptionText(key, standard)) continue;
    text.push_back(separator);
    text.append(key).append("=").append(value);
    separator = ',';
  }
  return text;
}

}  // namespace turboquant
