// One launch in a process of its own, for the sanitizer builds: `runner call.bin` runs the call that
// tests/kernels/emulate.py wrote and writes the arrays back. Every array is an allocation of exactly its size.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

extern "C" int emulator_launch(
    const char* name, void** arguments, unsigned blocks, unsigned threads, size_t shared_bytes, uint64_t seed,
    char* message, size_t message_size);

namespace {

struct Header {
  char kernel[128];
  uint64_t blocks, threads, shared_bytes, seed, arguments;
};
struct Argument {
  uint64_t is_array, size;  // followed by `size` bytes
};

void need(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "emulator: %s\n", what);
  std::exit(4);
}

}  // namespace

int main(int count, char** given) {
  need(count == 2, "expected the path of a call");
  std::FILE* file = std::fopen(given[1], "r+b");
  need(file, "cannot open the call");
  Header header;
  need(std::fread(&header, sizeof(header), 1, file) == 1, "short call");
  std::vector<void*> data, arguments;
  std::vector<Argument> kinds;
  std::vector<long> places;
  // Pointers to arrays live here; reserved, so that their addresses stay.
  std::vector<void*> pointers(header.arguments);
  for (uint64_t a = 0; a < header.arguments; ++a) {
    Argument argument;
    need(std::fread(&argument, sizeof(argument), 1, file) == 1, "short call");
    places.push_back(std::ftell(file));
    void* bytes = std::malloc(argument.size);
    need(argument.size == 0 || std::fread(bytes, argument.size, 1, file) == 1, "short call");
    kinds.push_back(argument);
    data.push_back(bytes);
    pointers[a] = bytes;
    arguments.push_back(argument.is_array ? static_cast<void*>(&pointers[a]) : bytes);
  }
  char message[1024] = "";
  const int failed = emulator_launch(
      header.kernel, arguments.data(), unsigned(header.blocks), unsigned(header.threads), header.shared_bytes,
      header.seed, message, sizeof(message));
  if (failed) {
    std::fprintf(stderr, "emulator: %s\n", message);
    return 3;
  }
  for (uint64_t a = 0; a < header.arguments; ++a) {
    if (!kinds[a].is_array || kinds[a].size == 0) continue;
    std::fseek(file, places[a], SEEK_SET);
    need(std::fwrite(data[a], kinds[a].size, 1, file) == 1, "cannot write the results");
  }
  std::fclose(file);
  return 0;
}
