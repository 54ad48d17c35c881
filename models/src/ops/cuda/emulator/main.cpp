// Runs kernels on the CPU, for the tests: a program of buffers and launches comes in on standard
// input, the buffers as they are afterwards go out.
//
//   in:  u32 order; u32 buffers, each: u64 bytes, data;
//        u32 launches, each: u32 length, name; u32 × 3 grid; u32 × 3 block;
//          u32 arguments, each: u32 0, u32 buffer | u32 1 (null) | u32 2, u32 bytes, data
//   out: the data of all buffers
//
// `order` says in which order blocks and threads take their turns: 0 forwards, 1 backwards, 2 and 3
// the same but each warp as far as it gets before the next one, others shuffled. Kernels whose result depends on it lack a barrier. Built with the sanitizers, so that
// whatever lies outside a buffer, or is undefined, ends the run with a report.
//
// This proves arithmetic, indices and barriers; not what memory order, occupancy or speed would do.
#include "../attention.cu"
#include "../convolution.cu"
#include "../deformable.cu"
#include "../gradients.cu"
#include "../implicit.cu"
#include "../planes.cu"
#include "../preprocess.cu"
#include "../products.cu"
#include "../rows.cu"
#include "../suppression.cu"
#include "../top_k.cu"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
extern "C" {
void __sanitizer_start_switch_fiber(void **, const void *, size_t);
void __sanitizer_finish_switch_fiber(void *, const void **, size_t *);
void __asan_unpoison_memory_region(void const volatile *, size_t);
// A fiber's stack is thrown away with the fiber.
const char *__asan_default_options() { return "detect_leaks=0:detect_stack_use_after_return=0"; }
}
#else
#define __sanitizer_start_switch_fiber(a, b, c) (void)(a)
#define __sanitizer_finish_switch_fiber(a, b, c) (void)(a)
#define __asan_unpoison_memory_region(a, b) (void)(a)
#endif

Index gridDim, blockDim, blockIdx, threadIdx;

[[noreturn]] static void fail(const std::string &what) { fail(what.c_str()); }
[[noreturn]] void fail(const char *what) {
  fprintf(stderr, "emulator: %s\n", what);
  exit(1);
}

static std::map<std::string, Thunk> &exports() {
  static std::map<std::string, Thunk> all;
  return all;
}
Export::Export(const char *name, Thunk thunk) { exports()[name] = thunk; }

// The fibers of one block.
static const size_t STACK = 32 * 1024;
struct Fiber {
  ucontext_t context;
  char *stack;
  bool done;
  Index index;
  void *fake;
};
static std::vector<Fiber> fibers;
static size_t current;
static ucontext_t scheduler;
static const void *scheduler_stack;
static size_t scheduler_size;
static uint64_t progress; // barriers passed and fibers ended, to notice when all only wait
static Thunk running;
static void **running_arguments;

// Those who wait for each other: a block, or a warp.
struct Barrier {
  size_t members, arrived;
  uint64_t generation;
};
static Barrier of_block;
static std::vector<Barrier> of_warp;
static std::vector<uint64_t> mailbox;
// Two of a lane, in turns: who writes the one has seen all others read the other.
static std::vector<Share> shares[2];
static std::vector<uint8_t> share_turns;

static void give_turn() {
  Fiber &fiber = fibers[current];
  __sanitizer_start_switch_fiber(&fiber.fake, scheduler_stack, scheduler_size);
  swapcontext(&fiber.context, &scheduler);
  __sanitizer_finish_switch_fiber(fiber.fake, &scheduler_stack, &scheduler_size);
}

static void wait(Barrier &barrier) {
  uint64_t generation = barrier.generation;
  if (++barrier.arrived == barrier.members) {
    barrier.arrived = 0;
    barrier.generation++;
    progress++;
  }
  while (barrier.generation == generation)
    give_turn();
}

unsigned lane_of_thread() { return (unsigned)(current % 32); }
void __syncthreads() { wait(of_block); }
void __syncwarp(unsigned) { wait(of_warp[current / 32]); }
uint64_t exchange(uint64_t mine, unsigned lane) {
  size_t warp = current / 32 * 32;
  mailbox[current] = mine;
  __syncwarp();
  if (warp + lane >= fibers.size())
    fail("a lane that is not there was asked");
  uint64_t theirs = mailbox[warp + lane];
  __syncwarp();
  return theirs;
}
unsigned __ballot_sync(unsigned, bool vote) {
  size_t warp = current / 32 * 32;
  mailbox[current] = vote;
  __syncwarp();
  unsigned votes = 0;
  for (size_t lane = 0; lane < 32 && warp + lane < fibers.size(); lane++)
    votes |= (unsigned)mailbox[warp + lane] << lane;
  __syncwarp();
  return votes;
}

const Share *shared_by_warp(const Share &mine) {
  size_t warp = current / 32 * 32;
  if (warp + 32 > fibers.size())
    fail("a whole warp was asked, which is not there");
  std::vector<Share> &now = shares[share_turns[current] ^= 1];
  now[current] = mine;
  __syncwarp();
  return &now[warp];
}

static void fiber_main() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
  running(running_arguments);
  fibers[current].done = true;
  progress++;
  __sanitizer_start_switch_fiber(nullptr, scheduler_stack, scheduler_size);
  swapcontext(&fibers[current].context, &scheduler);
}

// GCC fears for variables over `getcontext`, which here only ever returns once.
#pragma GCC diagnostic ignored "-Wclobbered"
// Runs the fiber `i` until it waits or ends; returns whether it ended now.
static bool take_turn(size_t i) {
  if (fibers[i].done)
    return false;
  current = i;
  threadIdx = fibers[i].index;
  void *fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fibers[i].stack, STACK);
  swapcontext(&scheduler, &fibers[i].context);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
  return fibers[i].done;
}

// Gives every fiber its turns, `together` beside each other in `order` as long as they get on.
static void run_block(const std::vector<size_t> &order, size_t together) {
  for (size_t i = 0; i < fibers.size(); i++) {
    Fiber &fiber = fibers[i];
    __asan_unpoison_memory_region(fiber.stack, STACK);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    fiber.done = false;
    fiber.index = {(unsigned)(i % blockDim.x), (unsigned)(i / blockDim.x % blockDim.y),
                   (unsigned)(i / blockDim.x / blockDim.y)};
    makecontext(&fiber.context, fiber_main, 0);
  }
  of_block = {fibers.size(), 0, 0};
  of_warp.assign((fibers.size() + 31) / 32, {32, 0, 0});
  if (fibers.size() % 32)
    of_warp.back().members = fibers.size() % 32;
  mailbox.assign(fibers.size(), 0);
  shares[0].resize(fibers.size());
  shares[1].resize(fibers.size());
  share_turns.assign(fibers.size(), 0);
  size_t left = fibers.size();
  while (left > 0) {
    uint64_t before = progress;
    for (size_t start = 0; start < order.size(); start += together) {
      size_t end = std::min(start + together, order.size());
      uint64_t begun;
      do {
        begun = progress;
        for (size_t i = start; i < end; i++)
          left -= take_turn(order[i]);
      } while (together < order.size() && progress != begun);
    }
    if (left > 0 && progress == before)
      fail("threads wait at a barrier that others never reach");
  }
}

// Faults that the emulator must notice; both for one block of 64.
extern "C" __global__ void without_barrier(const float *x, float *output) {
  __shared__ float shared[64];
  shared[threadIdx.x] = x[threadIdx.x];
  output[threadIdx.x] = shared[63 - threadIdx.x];
}
EXPORT(without_barrier)
extern "C" __global__ void uneven_barrier(const float *x, float *output) {
  if (threadIdx.x < 32)
    __syncthreads();
  output[threadIdx.x] = x[threadIdx.x];
}
EXPORT(uneven_barrier)

static void read_all(void *to, size_t bytes) {
  if (bytes && fread(to, 1, bytes, stdin) != bytes)
    fail("the input is cut short");
}
static uint32_t read_u32() {
  uint32_t value;
  read_all(&value, sizeof value);
  return value;
}

static std::vector<size_t> ordered(size_t count, uint32_t order) {
  std::vector<size_t> indices(count);
  for (size_t i = 0; i < count; i++)
    indices[i] = i;
  if (order == 1 || order == 3)
    std::reverse(indices.begin(), indices.end());
  if (order > 3)
    std::shuffle(indices.begin(), indices.end(), std::mt19937(order));
  return indices;
}

static void launch(const std::vector<char *> &buffers, uint32_t order) {
  std::string name(read_u32(), ' ');
  read_all(&name[0], name.size());
  if (!exports().count(name))
    fail("there is no kernel " + name);
  running = exports()[name];
  gridDim = {read_u32(), read_u32(), read_u32()};
  blockDim = {read_u32(), read_u32(), read_u32()};
  size_t threads = (size_t)blockDim.x * blockDim.y * blockDim.z;
  size_t blocks = (size_t)gridDim.x * gridDim.y * gridDim.z;
  if (!threads || threads > 1024 || !blocks || gridDim.y > 65535 || gridDim.z > 65535)
    fail(name + ": no GPU takes this grid or block");
  uint32_t count = read_u32();
  std::vector<std::vector<uint64_t>> values(count);
  std::vector<void *> arguments(count);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t kind = read_u32();
    if (kind == 2) {
      uint32_t bytes = read_u32();
      values[i].resize((bytes + 7) / 8);
      read_all(values[i].data(), bytes);
    } else {
      uint32_t buffer = kind == 0 ? read_u32() : 0;
      values[i] = {kind == 0 ? (uint64_t)buffers.at(buffer) : 0};
    }
    arguments[i] = values[i].data();
  }
  running_arguments = arguments.data();
  // Stacks are kept for the next launch.
  static std::vector<char *> stacks;
  while (stacks.size() < threads)
    stacks.push_back((char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  fibers.resize(threads);
  for (size_t i = 0; i < threads; i++)
    fibers[i].stack = stacks[i];
  std::vector<size_t> threads_order = ordered(threads, order);
  for (size_t block : ordered(blocks, order)) {
    blockIdx = {(unsigned)(block % gridDim.x), (unsigned)(block / gridDim.x % gridDim.y),
                (unsigned)(block / gridDim.x / gridDim.y)};
    run_block(threads_order, order == 2 || order == 3 ? 32 : threads);
  }
}

int main() {
  uint32_t order = read_u32();
  std::vector<char *> buffers(read_u32());
  std::vector<size_t> sizes(buffers.size());
  for (size_t i = 0; i < buffers.size(); i++) {
    uint64_t bytes;
    read_all(&bytes, sizeof bytes);
    sizes[i] = bytes;
    buffers[i] = (char *)malloc(bytes); // of exactly this size, so that one byte more is noticed
    read_all(buffers[i], bytes);
  }
  for (uint32_t left = read_u32(); left > 0; left--)
    launch(buffers, order);
  for (size_t i = 0; i < buffers.size(); i++)
    fwrite(buffers[i], 1, sizes[i], stdout);
  return 0;
}
