// encode, decode, inspect, search, codebook and validate from outside: files in, files and text
// out.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/rng.h"
#include "cli/process.h"
#include "files/array_file.h"

namespace turboquant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class ArrayCommands : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::path(testing::TempDir()) /
           ("tq_arrays_" + std::to_string(getpid()) + "_" +
            testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::string Path(const std::string& name) const { return (dir_ / name).string(); }
  static void Write(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  }
  static std::string Read(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  // An NPY file of normal values; returns them.
  std::vector<float> WriteNpy(const std::string& name, const std::vector<uint64_t>& shape,
                              uint64_t seed) {
    size_t n = 1;
    for (uint64_t s : shape) n *= s;
    SplitMix64 random(seed);
    std::vector<float> x(n);
    for (float& v : x) v = static_cast<float>(random.Normal());
    const auto header = NpyHeader(FloatType::kF32, shape);
    Write(Path(name), std::string(header.begin(), header.end()) +
                          std::string(reinterpret_cast<const char*>(x.data()), 4 * n));
    return x;
  }
  ProcessResult Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), TURBOQUANT_COMMAND);
    const auto result = RunCaptured(arguments, {});
    EXPECT_TRUE(result.ok()) << result.status().message();
    return result.ok() ? result.value() : ProcessResult{};
  }
  // Of a command that must succeed.
  Json RunJson(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    const ProcessResult run = Run(arguments);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return Json::parse(run.out, nullptr, false);
  }

  fs::path dir_;
};

TEST_F(ArrayCommands, ThereAndBackWithWhatWasPromised) {
  const std::vector<float> x = WriteNpy("x.npy", {6, 50, 128}, 1);
  const Json encoded = RunJson({"encode", Path("x.npy"), Path("x.tq"), "--codec", "turbo3"});
  EXPECT_EQ(encoded["command"], "encode");
  EXPECT_EQ(encoded["shape"], (Json{6, 50, 128}));
  EXPECT_EQ(encoded["head_dim"], 128);
  EXPECT_EQ(encoded["row_bytes"], 50);
  EXPECT_EQ(encoded["bytes"], fs::file_size(Path("x.tq")));
  EXPECT_EQ(encoded["invalid_rows"], 0);
  const Json decoded = RunJson({"decode", Path("x.tq"), Path("y.npy")});
  EXPECT_EQ(decoded["codec"], "turbo3");
  const std::string bytes = Read(Path("y.npy"));
  const auto array = ParseNpy({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  ASSERT_TRUE(array.ok());
  EXPECT_EQ(array.value().shape, (std::vector<uint64_t>{6, 50, 128}));
  std::vector<float> y(x.size());
  array.value().Read(0, y.size(), y.data());
  double error = 0, energy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(static_cast<double>(x[i]) - y[i], 2);
    energy += std::pow(static_cast<double>(x[i]), 2);
  }
  EXPECT_NEAR(error / energy, encoded["distortion"].get<double>(), 1e-9);
  EXPECT_NEAR(error / energy, 0.0335, 0.001);
  const ProcessResult text = Run({"encode", Path("x.npy"), Path("z.tq"), "--codec", "turbo3"});
  EXPECT_TRUE(Has(text.out, "6 x 50 x 128")) << text.out;
  EXPECT_TRUE(Has(text.out, "3.155 bits a value")) << text.out;
  EXPECT_EQ(Read(Path("z.tq")), Read(Path("x.tq"))) << "equal arrays give equal files";
}

TEST_F(ArrayCommands, RawFloatsAndRowsOfAPart) {
  const std::vector<float> x = WriteNpy("x.npy", {40, 192}, 2);
  std::string halves(2 * x.size(), '\0');
  WriteFloats(FloatType::kF16, x.data(), x.size(), reinterpret_cast<uint8_t*>(halves.data()));
  Write(Path("x.f16"), halves);
  const Json encoded = RunJson({"encode", Path("x.f16"), Path("x.tq"), "--raw", "f16", "--dim",
                                "192", "--head-dim", "64", "--codec", "f16"});
  EXPECT_EQ(encoded["rows"], 120);
  RunJson({"decode", Path("x.tq"), Path("y.f16"), "--raw", "--type", "f16"});
  EXPECT_EQ(Read(Path("y.f16")), halves);
  EXPECT_EQ(Run({"encode", Path("x.f16"), Path("x.tq"), "--raw", "f16"}).exit_code, 2);
  const ProcessResult wrong =
      Run({"encode", Path("x.f16"), Path("x.tq"), "--raw", "f32", "--dim", "190"});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_TRUE(Has(wrong.err, "no whole number of vectors")) << wrong.err;
}

TEST_F(ArrayCommands, InspectTellsWhatItIs) {
  WriteNpy("x.npy", {10, 64}, 3);
  Run({"encode", Path("x.npy"), Path("x.tq")});
  const Json file = RunJson({"inspect", Path("x.tq")});
  EXPECT_EQ(file["kind"], "row file");
  EXPECT_EQ(file["codec"], "turbo4");
  EXPECT_EQ(file["damaged_chunks"], 0);
  EXPECT_TRUE(file["error"].is_null());
  const Json array = RunJson({"inspect", Path("x.npy")});
  EXPECT_EQ(array["kind"], "npy");
  EXPECT_NEAR(array["rms"].get<double>(), 1, 0.1);
  EXPECT_EQ(array["head_dim"], 64);
  EXPECT_TRUE(Has(Run({"inspect", Path("x.npy")}).out, "NPY array of f32"));
  EXPECT_TRUE(Has(Run({"inspect", Path("x.tq")}).out, "1 of 1 chunks of rows are intact"));
}

TEST_F(ArrayCommands, DamagedFilesAreRefusedWithAReasonAndNothingIsWritten) {
  WriteNpy("x.npy", {10, 64}, 3);
  ASSERT_EQ(Run({"encode", Path("x.npy"), Path("x.tq")}).exit_code, 0);
  const std::string good = Read(Path("x.tq"));
  std::string altered = good;
  altered[300] = static_cast<char>(altered[300] ^ 4);
  std::string newer = good;
  newer[8] = 2;
  const struct {
    std::string bytes;
    int exit_code;
    const char* word;
  } kCases[] = {{altered, 1, "rows 0 to 9 fail their checksum"},
                {good.substr(0, 300), 1, "cut off: it has 300 of"},
                {good.substr(0, 50), 1, "cut off within its header"},
                {good + "x", 1, "too many bytes"},
                {newer, 3, "use a newer turboquant"},
                {"", 1, "not a row file"},
                {"plain text", 1, "not a row file"}};
  for (const auto& c : kCases) {
    Write(Path("bad.tq"), c.bytes);
    for (const char* command : {"decode", "search"}) {
      const std::string other = command == std::string("decode") ? "out.npy" : "x.npy";
      const ProcessResult run = Run({command, Path("bad.tq"), Path(other)});
      EXPECT_EQ(run.exit_code, c.exit_code) << c.word;
      EXPECT_TRUE(Has(run.err, c.word) && Has(run.err, "bad.tq")) << run.err;
    }
    EXPECT_FALSE(fs::exists(Path("out.npy")));
    if (!c.bytes.empty() && c.bytes != "plain text") {
      EXPECT_EQ(Run({"inspect", Path("bad.tq")}).exit_code, c.exit_code) << c.word;
    }
  }
}

TEST_F(ArrayCommands, MistakesHaveTheirOwnMessage) {
  WriteNpy("x.npy", {10, 64}, 3);
  WriteNpy("odd.npy", {10, 50}, 3);
  WriteNpy("none.npy", {0, 64}, 3);
  Write(Path("text"), "hello");
  ASSERT_EQ(Run({"encode", Path("x.npy"), Path("x.tq")}).exit_code, 0);
  const struct {
    std::vector<std::string> arguments;
    int exit_code;
    const char* word;
  } kCases[] = {
      {{"encode", Path("missing"), Path("o")}, 1, "No such file"},
      {{"encode", Path("text"), Path("o")}, 1, "no NPY file"},
      {{"encode", Path("x.tq"), Path("o")}, 2, "compressed already"},
      {{"encode", Path("none.npy"), Path("o")}, 2, "no vectors"},
      {{"encode", Path("odd.npy"), Path("o")}, 2, "Append zeros up to 64"},
      {{"encode", Path("x.npy"), Path("o"), "--codec", "turbo9"}, 2, "use one of turbo1"},
      {{"encode", Path("x.npy"), Path("o"), "--head-dim", "48"}, 2, "divisor"},
      {{"encode", Path("x.npy"), Path("no/folder/o")}, 1, "cannot write"},
      {{"encode", Path("x.npy")}, 2, "required"},
      {{"decode", Path("x.tq"), Path("o"), "--type", "f8"}, 2, "f32"},
      {{"search", Path("x.tq"), Path("odd.npy")}, 2, "as long as the vectors"},
      {{"search", Path("x.tq"), Path("x.npy"), "--exact", Path("odd.npy")}, 2, "was encoded"},
      {{"search", Path("x.tq"), Path("x.npy"), "-k", "0"}, 2, "-k"},
      {{"codebook", "-b", "9"}, 2, "--bits"},
      {{"codebook", "-b", "5", "--grid"}, 2, "1 to 4 bits"},
      {{"codebook", "-d", "2"}, 2, "from 4 to 65536"},
      {{"validate", "--json", "--csv"}, 2, "exclu"},
      {{"validate", "--rows", "5"}, 2, "--rows"}};
  for (const auto& c : kCases) {
    const ProcessResult run = Run(c.arguments);
    EXPECT_EQ(run.exit_code, c.exit_code) << c.word << "\n" << run.err;
    EXPECT_TRUE(Has(run.err, c.word)) << run.err;
    EXPECT_FALSE(fs::exists(Path("o")));
  }
}

TEST_F(ArrayCommands, NaNRowsAreStoredAsZerosAndReported) {
  std::vector<float> x = WriteNpy("x.npy", {10, 64}, 3);
  std::string bytes = Read(Path("x.npy"));
  const float nan = std::nanf("");
  std::memcpy(bytes.data() + 128 + 4 * (3 * 64 + 5), &nan, 4);
  Write(Path("x.npy"), bytes);
  const ProcessResult run = Run({"encode", Path("x.npy"), Path("x.tq")});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_TRUE(Has(run.err, "1 of 10 rows")) << run.err;
  EXPECT_EQ(RunJson({"inspect", Path("x.npy")})["non_finite"], 1);
}

TEST_F(ArrayCommands, SearchFindsTheVectorsThemselves) {
  WriteNpy("x.npy", {500, 64}, 4);
  ASSERT_EQ(Run({"encode", Path("x.npy"), Path("x.tq"), "--codec", "turbo4"}).exit_code, 0);
  const Json found =
      RunJson({"search", Path("x.tq"), Path("x.npy"), "-k", "5", "--exact", Path("x.npy")});
  EXPECT_EQ(found["vectors"], 500);
  EXPECT_EQ(found["queries"], 500);
  ASSERT_EQ(found["neighbours"].size(), 500u);
  int own = 0;
  for (size_t q = 0; q < 500; ++q) {
    ASSERT_EQ(found["neighbours"][q].size(), 5u);
    own += found["neighbours"][q][0]["index"] == q ? 1 : 0;
    EXPECT_GE(found["neighbours"][q][0]["score"], found["neighbours"][q][4]["score"]);
  }
  EXPECT_GE(own, 498);
  EXPECT_GT(found["exact"]["recall_at_k"], 0.85);
  EXPECT_LT(found["exact"]["recall_at_k"], 1.0) << "4 bits are not exact";
  EXPECT_GT(found["exact"]["best_at_k"], 0.99);
  EXPECT_GT(found["products_per_second"], 0);
  const ProcessResult text = Run({"search", Path("x.tq"), Path("x.npy"), "--show", "1"});
  EXPECT_TRUE(Has(text.out, "query 0      0 (")) << text.out;
  EXPECT_FALSE(Has(text.out, "query 1")) << text.out;
}

TEST_F(ArrayCommands, CodebookIsTheSolution) {
  const Json book = RunJson({"codebook", "-b", "1"});
  EXPECT_NEAR(book["centroids"][1].get<double>(), std::sqrt(2 / 3.14159265358979323846), 1e-12);
  EXPECT_NEAR(book["distortion"].get<double>(), 1 - 2 / 3.14159265358979323846, 1e-12);
  const Json sphere = RunJson({"codebook", "-b", "2", "-d", "64"});
  EXPECT_EQ(sphere["thresholds"].size(), 3u);
  EXPECT_LT(sphere["distortion"], RunJson({"codebook", "-b", "2"})["distortion"]);
  EXPECT_GT(RunJson({"codebook", "-b", "4", "--grid"})["distortion"],
            RunJson({"codebook", "-b", "4"})["distortion"]);
  const std::string csv = Run({"codebook", "-b", "3", "--csv"}).out;
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 9);
  EXPECT_EQ(csv.rfind("code,centroid,lower,upper\n0,-", 0), 0u) << csv;
}

TEST_F(ArrayCommands, ValidateShowsTablesPlotAndDocuments) {
  const ProcessResult run =
      Run({"validate", "--rows", "20000", "--no-timing", "--svg", Path("plot.svg")});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  for (const char* part : {"Lloyd-Max quantisers", "d=576", "turbo3q:projection=gaussian",
                           "Slope of estimated", "dB above", "296 of 296 figures"}) {
    EXPECT_TRUE(Has(run.out, part)) << part << "\n" << run.out;
  }
  EXPECT_FALSE(Has(run.err, "\r")) << "a progress bar on a pipe";
  EXPECT_TRUE(Has(Read(Path("plot.svg")), "</svg>"));
  // So few rows that chance alone leaves the bounds: the command must say so and fail.
  const ProcessResult few = Run({"validate", "--rows", "1000", "--no-timing", "--csv"});
  EXPECT_EQ(few.exit_code, 1);
  EXPECT_TRUE(Has(few.out, "check,lloyd-max,\"8 bits\",64,1000,")) << few.out;
  const ProcessResult document = Run({"validate", "--rows", "1000", "--no-timing", "--json"});
  EXPECT_EQ(document.exit_code, 1);
  const Json json = Json::parse(document.out, nullptr, false);
  EXPECT_EQ(json["ok"], false);
  EXPECT_EQ(json["checks"].size(), 296u);
  EXPECT_EQ(Run({"validate", "--rows", "1000", "--no-timing", "--svg", Path("no/p.svg")}).exit_code,
            1);
}

}  // namespace
}  // namespace turboquant
