// The threads of a grid on the host: one fiber each, taking turns. Included by host_cuda.h, which says what for.
//
// A thread runs until it must wait for others (a barrier, a warp collective) or is done, and no two ever run at once.
// So what happens depends on `order` alone: 0 forward, 1 backward, else shuffled, for threads and blocks alike.
#pragma once
#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <ucontext.h>
#include <vector>

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
// All variables in shared memory lie between these two; the linker makes them, if there is any such variable.
extern "C" char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));

namespace host {
const size_t STACK = 64 << 10;
struct Fiber { char stack[STACK]; ucontext_t start; jmp_buf at; bool begun = false; };
struct Thread {
  uint3 index; unsigned number; Fiber* fiber; bool waits; const char* where;
  // Of a warp collective: what this lane brings, which lane's value it asks for, what it gets.
  unsigned mask, votes; int source; uint64_t value, result;
};
struct Warp { unsigned alive, arrived; };
struct Barrier { unsigned arrived; int count, result, all; const char* where; };

static std::vector<Thread> threads;
static std::vector<Warp> warps;
static std::vector<Thread*> runnable;
static std::vector<Fiber*> fibers, idle;  // all there ever were, and those without a thread
static Thread* current;
static jmp_buf scheduler;
static Barrier barrier;
static unsigned alive;
static std::string error;
static void (*body)(void**);
static void** arguments;

[[noreturn]] inline void leave() { _longjmp(scheduler, 1); }
[[noreturn]] inline void fail(const std::string& message) { error = message; leave(); }  // ends the launch
inline void wait() { if (_setjmp(current->fiber->at) == 0) leave(); }  // until resumed
inline void wake(Thread& thread) { thread.waits = false; runnable.push_back(&thread); }

// What has returned is not waited for, as on a GPU since Volta.
inline void release_block() {
  if (barrier.arrived == 0 || barrier.arrived < alive) return;
  barrier.result = barrier.count;
  barrier.all = barrier.count == (int)alive;
  barrier.arrived = barrier.count = 0;
  for (Thread& thread : threads) if (thread.waits) wake(thread);
}
inline Barrier& meet_block(const char* where, bool predicate = false) {
  if (barrier.arrived && strcmp(barrier.where, where))
    fail(std::string("barrier reached from ") + barrier.where + " and " + where);
  barrier.where = current->where = where;
  barrier.arrived++;
  barrier.count += predicate;
  current->waits = true;
  release_block();
  wait();
  return barrier;
}

// Let the lanes of one mask go on, if all are there.
inline void release_lanes(Thread* lanes, Warp& warp, unsigned mask) {
  unsigned group = mask & warp.alive;
  if ((warp.arrived & group) != group) return;
  Thread& one = lanes[__builtin_ctz(group)];
  unsigned votes = 0;
  for (unsigned left = group; left; left &= left - 1) {  // the bits of `group`, one after the other
    Thread& lane = lanes[__builtin_ctz(left)];
    if (lane.mask != mask) fail(std::string("lanes of a warp named different masks at ") + lane.where);
    if (strcmp(lane.where, one.where)) fail(std::string("a warp's lanes meet at ") + one.where + " and " + lane.where);
    if (!(group >> lane.source & 1)) fail(std::string("shuffle from an inactive lane at ") + lane.where);
    if (lane.value) votes |= 1u << (&lane - lanes);
  }
  for (unsigned left = group; left; left &= left - 1) {
    Thread& lane = lanes[__builtin_ctz(left)];
    lane.result = lanes[lane.source].value;
    lane.votes = votes;
    wake(lane);
  }
  warp.arrived &= ~group;
}
inline int own_lane() { return current->number & 31; }
inline Thread& meet_lanes(unsigned mask, uint64_t value, int source, const char* where) {
  if (!(mask >> own_lane() & 1)) fail(std::string("a lane is not in the mask it names at ") + where);
  current->mask = mask; current->value = value; current->source = source; current->where = where;
  current->waits = true;
  Warp& warp = warps[current->number / 32];
  warp.arrived |= 1u << own_lane();
  release_lanes(current - own_lane(), warp, mask);
  wait();
  return *current;
}
template <class T> T shuffle(unsigned mask, T value, int source, const char* where) {
  static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  // Past either end of the warp a lane gets its own value back.
  bits = meet_lanes(mask, bits, source < 0 || source > 31 ? own_lane() : source, where).result;
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned vote(unsigned mask, bool predicate, const char* where) {
  return meet_lanes(mask, predicate, own_lane(), where).votes;
}

// A fiber runs one thread after the other; at its end a thread may be the one that others waited for to go.
inline void run_threads() {
  for (;;) {
    body(arguments);
    Warp& warp = warps[current->number / 32];
    warp.alive &= ~(1u << own_lane());
    alive--;
    release_block();
    for (int lane = 0; lane < 32; lane++)
      if (warp.arrived >> lane & 1) release_lanes(current - own_lane(), warp, current[lane - own_lane()].mask);
    idle.push_back(current->fiber);
    wait();
  }
}
inline void resume(Thread& thread) {
  current = &thread;
  threadIdx = thread.index;
  if (!thread.fiber) {
    if (idle.empty()) fibers.push_back(new Fiber), idle.push_back(fibers.back());
    thread.fiber = idle.back();
    idle.pop_back();
  }
  Fiber& fiber = *thread.fiber;
  if (_setjmp(scheduler)) return;
  if (fiber.begun) _longjmp(fiber.at, 1);  // unlike swapcontext, no system call
  fiber.begun = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack;
  fiber.start.uc_stack.ss_size = STACK;
  makecontext(&fiber.start, run_threads, 0);
  setcontext(&fiber.start);
}

template <class T> void arrange(std::vector<T>& items, int order, std::mt19937& random) {
  if (order == 1) std::reverse(items.begin(), items.end());
  if (order > 1) std::shuffle(items.begin(), items.end(), random);
}
inline void run_block(int order, std::mt19937& random) {
  unsigned count = blockDim.x * blockDim.y * blockDim.z;
  unsigned filling = order ? random() : 0;  // zeros hide most: once is enough
  for (char* p = __start_shared_memory; p < __stop_shared_memory; p++) *p = filling >> 8 * ((uintptr_t)p & 3);
  threads.assign(count, Thread{});
  warps.assign((count + 31) / 32, Warp{});
  barrier = Barrier{};
  runnable.clear();
  alive = count;
  for (unsigned i = 0; i < count; i++) {
    threads[i].number = i;
    threads[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    warps[i / 32].alive |= 1u << (i & 31);
    runnable.push_back(&threads[i]);
  }
  std::vector<Thread*> turn;
  while (alive && error.empty()) {
    turn.swap(runnable);
    if (turn.empty()) {
      for (Thread& t : threads) if (t.waits) error = std::string("deadlock: others never come to ") + t.where;
    }
    arrange(turn, order, random);
    for (Thread* thread : turn) if (error.empty()) resume(*thread);
    turn.clear();
  }
}
inline const char* run_grid(const unsigned* sizes, int order) {
  gridDim = {sizes[0], sizes[1], sizes[2]};
  blockDim = {sizes[3], sizes[4], sizes[5]};
  error.clear();
  idle = fibers;
  for (Fiber* fiber : fibers) fiber->begun = false;  // a launch that failed left some midway
  if (blockDim.x * blockDim.y * blockDim.z > 1024) return "a block has more than 1024 threads";
  if (gridDim.y > 65535 || gridDim.z > 65535) return "a grid has more than 65535 blocks along y or z";
  std::mt19937 random(order);
  std::vector<unsigned> blocks(gridDim.x * gridDim.y * gridDim.z);
  std::iota(blocks.begin(), blocks.end(), 0u);
  arrange(blocks, order, random);
  for (unsigned b : blocks) {
    blockIdx = {b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y};
    if (error.empty()) run_block(order, random);
  }
  return error.c_str();
}
}  // namespace host
