/* A multiprocessor that runs one block of threads at a time, checks every access, and counts.

   Lanes of a warp that part at a branch meet again at its immediate post-dominator. Registers lie lane by lane in three
   files a warp: R of 32 bits, Q of 64, P of predicates, a bit a lane. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FULL 0xffffffffu
#define LANES _Pragma("GCC ivdep") for (int i = 0; i < 32; i++)
#define NOWHERE INT32_MAX
#define MOST_WAITING 256
#define SHARED 1    /* flags of an instruction: on shared memory */
#define SIGNED 2    /* loaded values are sign extended */
#define WIDE 4      /* values lie in Q */
#define ABSOLUTE 8  /* the address is `immediate`, without a register */

#include "enums.inc"

typedef struct {
    int32_t op, guard;           /* guard: 0 for none, else 1 + number of the predicate, negative if negated */
    int32_t d[4], s[5];          /* register numbers; of a memory access the address is s[4] */
    int64_t immediate;           /* offset of an address, target of a branch, kind of a shuffle or reduction */
    int32_t size, count;         /* of an access or a pack: bytes of an element, elements */
    int32_t flags, rejoin;       /* rejoin: the immediate post-dominator of a branch */
    int32_t kind, slots, latency;
    int32_t reads[6], writes[4]; /* for the clock: registers of all files in one numbering, -1 for none */
} Ins;

#include "arithmetic.h"
#include "memory.h"

enum { RUNS, AT_BARRIER, DONE };

typedef struct {
    uint32_t *R;
    uint64_t *Q;
    uint32_t *P;
    int32_t pc, rejoin; /* rejoin: where the active lanes meet those that wait */
    uint32_t active, live;
    int32_t depth;
    struct { int32_t pc, rejoin; uint32_t mask; } waiting[MOST_WAITING];
    int32_t number, state, soft, hard;
    int64_t clock, *ready; /* ready: of each register, when its value is there */
} Warp;

static Access access_of(const Warp *w, int lane, int write)
{
    return (Access){write, -1, w->number, lane, w->pc, w->soft, w->hard, 0};
}

/* A fault of a warp, not of an access to memory. */
static void report_warp(int kind, const Warp *w, int other, int lane)
{
    const Access a = access_of(w, lane, 0);
    report(kind, &a, other);
}

/* A warp issues in order and waits for sources; what it loads arrives while it goes on. */
static void advance(Warp *w, const Ins *I, int latency)
{
    int64_t start = w->clock;
    for (int k = 0; k < 6 && I->reads[k] >= 0; k++)
        if (w->ready[I->reads[k]] > start)
            start = w->ready[I->reads[k]];
    for (int k = 0; k < 4 && I->writes[k] >= 0; k++)
        w->ready[I->writes[k]] = start + latency;
    /* What follows a branch starts when it is known. */
    const int64_t end = start + (I->op == BRA ? latency : I->slots);
    M->spent[3 * w->pc] += end - w->clock;
    w->clock = end;
}

/* On to the lanes that have waited least; those that are done are gone. */
static void resume(Warp *w)
{
    do {
        w->depth--;
        w->pc = w->waiting[w->depth].pc;
        w->rejoin = w->waiting[w->depth].rejoin;
        w->active = w->waiting[w->depth].mask & w->live;
    } while (!w->active && w->depth > 0);
}

static void wait_at(Warp *w, int pc, int rejoin, uint32_t mask)
{
    if (w->depth == MOST_WAITING)
        abort();
    w->waiting[w->depth].pc = pc;
    w->waiting[w->depth].rejoin = rejoin;
    w->waiting[w->depth].mask = mask;
    w->depth++;
}

/* The lanes that branch go first, the others wait. Returns whether any of them branch. */
static int branch(Warp *w, const Ins *I, uint32_t taken)
{
    const uint32_t stays = w->active & ~taken;
    if (stays && taken) {
        if (I->rejoin != w->rejoin) {
            wait_at(w, I->rejoin, w->rejoin, w->active);
            w->rejoin = I->rejoin;
        }
        wait_at(w, w->pc + 1, w->rejoin, stays);
        w->active = taken;
    }
    if (taken || !stays)
        w->pc = (int)I->immediate;
    return taken || !stays;
}

static void address(const Ins *I, const Warp *w, uint64_t *at)
{
    for (int i = 0; i < 32; i++)
        at[i] = I->flags & ABSOLUTE ? (uint64_t)I->immediate
                : I->flags & SHARED ? (uint32_t)(w->R[32 * I->s[4] + i] + I->immediate)
                                    : w->Q[32 * I->s[4] + i] + I->immediate;
}

static int64_t sign_extended(uint64_t x, int bytes)
{
    const int unused = 64 - 8 * bytes;
    return (int64_t)(x << unused) >> unused;
}

/* A load or store of a warp; returns its latency. */
static int access_memory(const Ins *I, Warp *w, uint32_t m)
{
    const int write = I->op == ST, bytes = I->size * I->count;
    uint64_t at[32];
    address(I, w, at);
    for (int i = 0; i < 32; i++) {
        if (!(m >> i & 1))
            continue;
        uint8_t data[32];
        if (write)
            for (int k = 0; k < I->count; k++) {
                const void *from = I->flags & WIDE ? (void *)(w->Q + 32 * I->s[k] + i) : (void *)(w->R + 32 * I->s[k] + i);
                memcpy(data + k * I->size, from, I->size);
            }
        Access a = access_of(w, i, write);
        uint8_t *p = I->flags & SHARED ? locate_shared(at[i], bytes, data, &a) : locate_global(at[i], bytes, data, &a);
        if (write && p)
            memcpy(p, data, bytes);
        for (int k = 0; !write && k < I->count; k++) {
            uint64_t x = 0x7ff8dead7fc0deadull;
            if (p)
                x = 0, memcpy(&x, p + k * I->size, I->size);
            if (I->flags & SIGNED)
                x = sign_extended(x, I->size);
            if (I->flags & WIDE)
                w->Q[32 * I->d[k] + i] = x;
            else
                w->R[32 * I->d[k] + i] = (uint32_t)x;
        }
    }
    if (!m)
        return 5;
    if (I->flags & SHARED) {
        const int extra = count_shared(at, m, bytes);
        M->conflicts += extra;
        M->spent[3 * w->pc + 2] += extra;
        return M->smem + extra;
    }
    return count_global(at, m, bytes, write) && !write ? M->l2 : M->hit;
}

/* Lane t has word t % 4 of row t / 4 of each matrix, lane 8 k + r the address of row r of matrix k. */
static int access_matrices(const Ins *I, Warp *w)
{
    const int write = I->op == STMATRIX;
    uint64_t at[32];
    address(I, w, at);
    for (int k = 0; k < I->count; k++) {
        uint32_t rows[8][4];
        for (int i = 0; write && i < 32; i++)
            rows[i / 4][i % 4] = w->R[32 * I->s[k] + i];
        for (int r = 0; r < 8; r++) {
            Access a = access_of(w, 8 * k + r, write);
            uint8_t *p = locate_shared(at[8 * k + r], 16, (uint8_t *)rows[r], &a);
            if (write && p)
                memcpy(p, rows[r], 16);
            else if (p)
                memcpy(rows[r], p, 16);
            else
                memset(rows[r], 0x5a, 16);
        }
        for (int i = 0; !write && i < 32; i++)
            w->R[32 * I->d[k] + i] = rows[i / 4][i % 4];
    }
    return M->smem + 4 * I->count;
}

/* To shared memory, 32 bits; atomics do not race with each other. */
static int add_atomically(const Ins *I, Warp *w, uint32_t m)
{
    uint64_t at[32];
    address(I, w, at);
    for (int i = 0; i < 32; i++) {
        if (!(m >> i & 1))
            continue;
        Access a = access_of(w, i, 1);
        a.at = (int64_t)at[i];
        if (at[i] + 4 > (uint64_t)M->shared || at[i] % 4) {
            report(at[i] % 4 ? MISALIGNED : SHARED_OUTSIDE, &a, -1);
            continue;
        }
        if (M->checks) {
            Cell *c = scells + (at[i] >> M->shared_shift);
            const Trace *write = &c->write, *read = &c->read;
            const int by_atomic = write->block >= 0 && M->code[write->pc].op == ATOMADD;
            if (write->block >= 0 && write->epoch == epoch && write->warp != a.warp && !by_atomic)
                report(RACE_WARPS, &a, write->pc);
            if (read->block >= 0 && read->epoch == epoch && read->warp != a.warp)
                report(RACE_WARPS, &a, read->pc);
            c->write = (Trace){0, epoch, a.pc, a.soft, a.hard, a.warp, a.lane};
            c->unchanged = 0;
            if (!svalid[at[i]])
                report(SHARED_UNWRITTEN, &a, -1);
        }
        uint32_t x;
        memcpy(&x, smem + at[i], 4);
        w->R[32 * I->d[0] + i] = x;
        x += w->R[32 * I->s[0] + i];
        memcpy(smem + at[i], &x, 4);
    }
    return M->smem + 20;
}

static void shuffle(const Ins *I, Warp *w, uint32_t m)
{
    enum { UP, DOWN, BUTTERFLY, INDEX };
    const uint32_t *by = w->R + 32 * I->s[1], *limits = w->R + 32 * I->s[2];
    uint32_t old[32], z[32], inside = 0;
    memcpy(old, w->R + 32 * I->s[0], sizeof old);
    for (int i = 0; i < 32; i++) {
        const int b = by[i] & 31, c = limits[i], segment = c >> 8 & 31;
        const int least = i & segment, most = least | (c & 31 & ~segment);
        int from = I->immediate == UP ? i - b : I->immediate == DOWN ? i + b : I->immediate == BUTTERFLY ? i ^ b : (least | (b & ~segment));
        const int in = I->immediate == UP ? from >= most : from <= most;
        if (!in)
            from = i;
        inside |= (uint32_t)in << i;
        if (!(m >> (from & 31) & 1) && (m >> i & 1))
            report_warp(DIVERGED_SYNC, w, -1, i);
        z[i] = old[from & 31];
    }
    for (int i = 0; i < 32; i++)
        if (m >> i & 1)
            w->R[32 * I->d[0] + i] = z[i];
    if (I->d[1] >= 0)
        w->P[I->d[1]] = (w->P[I->d[1]] & ~m) | (inside & m);
}

static void reduce(const Ins *I, Warp *w, uint32_t m)
{
    enum { ADD, MIN, MAX, UNSIGNED_MIN, UNSIGNED_MAX, OR, AND, XOR, FLOAT_MIN, FLOAT_MAX };
    const uint32_t *a = w->R + 32 * I->s[0];
    uint32_t z = 0;
    int first = 1;
    for (int i = 0; i < 32; i++) {
        if (!(m >> i & 1))
            continue;
        const uint32_t x = a[i];
        switch (first ? -1 : (int)I->immediate) {
        case ADD: z += x; break;
        case MIN: z = (int32_t)z < (int32_t)x ? z : x; break;
        case MAX: z = (int32_t)z > (int32_t)x ? z : x; break;
        case UNSIGNED_MIN: z = z < x ? z : x; break;
        case UNSIGNED_MAX: z = z > x ? z : x; break;
        case OR: z |= x; break;
        case AND: z &= x; break;
        case XOR: z ^= x; break;
        case FLOAT_MIN: z = bits_of(fminf(float_of(z), float_of(x))); break;
        case FLOAT_MAX: z = bits_of(fmaxf(float_of(z), float_of(x))); break;
        default: z = x;
        }
        first = 0;
    }
    for (int i = 0; i < 32; i++)
        if (m >> i & 1)
            w->R[32 * I->d[0] + i] = z;
}

static void vote(const Ins *I, Warp *w, uint32_t m)
{
    const uint32_t z = w->P[I->s[0]] & m;
    for (int i = 0; i < 32; i++)
        if (m >> i & 1)
            w->R[32 * I->d[0] + i] = z;
}

static uint64_t mask_of(int bytes)
{
    return bytes == 8 ? ~0ull : (1ull << 8 * bytes) - 1;
}

/* Parts of `size` bytes, the lowest first. */
static void pack(const Ins *I, Warp *w, uint32_t m)
{
    for (int i = 0; i < 32; i++) {
        if (!(m >> i & 1))
            continue;
        uint64_t x = 0;
        for (int k = 0; k < I->count; k++)
            x |= (w->R[32 * I->s[k] + i] & mask_of(I->size)) << 8 * I->size * k;
        if (I->flags & WIDE)
            w->Q[32 * I->d[0] + i] = x;
        else
            w->R[32 * I->d[0] + i] = (uint32_t)x;
    }
}

static void unpack(const Ins *I, Warp *w, uint32_t m)
{
    for (int i = 0; i < 32; i++) {
        if (!(m >> i & 1))
            continue;
        const uint64_t x = I->flags & WIDE ? w->Q[32 * I->s[0] + i] : w->R[32 * I->s[0] + i];
        for (int k = 0; k < I->count; k++)
            if (I->d[k] >= 0)
                w->R[32 * I->d[k] + i] = x >> 8 * I->size * k & mask_of(I->size);
    }
}

/* To the next barrier or the end. Returns 1 where there is no going on. */
static int run_warp(Warp *w, uint64_t *executed)
{
    uint32_t *const R = w->R, *const P = w->P;
    uint64_t *const Q = w->Q;
    for (;;) {
        while (w->pc == w->rejoin)
            resume(w);
        const Ins *I = M->code + w->pc;
        uint32_t m = w->active;
        if (I->guard > 0)
            m &= P[I->guard - 1];
        else if (I->guard < 0)
            m &= ~P[-I->guard - 1];
        instruction++;
        if (++*executed > M->budget) {
            report_warp(ENDLESS, w, -1, 0);
            return 1;
        }
        M->counts[I->kind]++;
        M->spent[3 * w->pc + 1]++;
        M->issue += I->slots;
        if (I->kind == IS_F64)
            M->f64_slots += I->slots;
        const int with_all = I->op == SHFL || I->op == REDUX || I->op == VOTE || I->op == WARPSYNC || I->op == LDMATRIX || I->op == STMATRIX;
        if (with_all && m != FULL)
            report_warp(DIVERGED_SYNC, w, -1, 0);
        int latency = I->latency;
        switch (I->op) {
#include "cases.inc"
        case BRA:
            if (M->timing)
                advance(w, I, latency);
            if (branch(w, I, m))
                continue;
            w->pc++;
            continue;
        case RET:
            w->live &= ~m;
            w->active &= ~m;
            if (!w->live) {
                w->state = DONE;
                return 0;
            }
            if (w->active)
                w->pc++;
            else
                resume(w);
            continue;
        case BAR:
            if (m != w->live) {
                report_warp(DIVERGED_BAR, w, -1, 0);
                return 1;
            }
            w->state = AT_BARRIER, w->soft++, w->hard++;
            return 0;
        case WARPSYNC: w->soft++, w->hard++; break;
        case LD: case ST: latency = access_memory(I, w, m); break;
        case LDMATRIX: case STMATRIX: latency = access_matrices(I, w), w->soft++; break;
        case ATOMADD: latency = add_atomically(I, w, m); break;
        case SHFL: shuffle(I, w, m), w->soft++; break;
        case REDUX: reduce(I, w, m), w->soft++; break;
        case VOTE: vote(I, w, m), w->soft++; break;
        case PACK: pack(I, w, m); break;
        case UNPACK: unpack(I, w, m); break;
        default: abort();
        }
        if (M->timing)
            advance(w, I, latency);
        w->pc++;
    }
}

static void start_warp(Warp *w)
{
    for (int i = 0; i < 32; i++)
        w->R[32 * M->ctaid + i] = block;
    w->pc = w->depth = 0, w->rejoin = NOWHERE;
    w->active = w->live = FULL;
    w->state = RUNS, w->clock = 0;
    memset(w->ready, 0, sizeof *w->ready * (size_t)(M->nr + M->nq + M->np));
}

/* All warps wait at one barrier, or all are done: then 0. 1 where they may go on, -1 where there is no going on. */
static int meet(Warp *warps, int64_t *clock)
{
    const int cycles = M->warps > 1 ? 25 : 10;
    const Warp *waiting = NULL;
    int done = 0, failed = 0;
    *clock = 0;
    for (int k = 0; k < M->warps; k++) {
        const Warp *w = warps + k;
        if (w->clock > *clock)
            *clock = w->clock;
        if (w->state == DONE) {
            done++;
            continue;
        }
        if (waiting && waiting->pc != w->pc)
            report_warp(OTHER_BAR, w, waiting->pc, 0), failed = 1;
        waiting = w;
    }
    if (!waiting)
        return 0;
    if (done)
        report_warp(EXITED_BAR, waiting, -1, 0), failed = 1;
    if (failed)
        return -1; /* what follows would be of no meaning */
    for (int k = 0; k < M->warps; k++) {
        Warp *w = warps + k;
        M->spent[3 * w->pc] += *clock + cycles - w->clock;
        w->pc++, w->state = RUNS, w->clock = *clock + cycles;
    }
    epoch++;
    M->barriers++;
    return 1;
}

/* One block to its end; returns its cycles, or -1 where it was given up. A warp runs alone to its next barrier; which
   goes first is drawn. */
static int64_t run_block(Warp *warps, uint32_t *random)
{
    const size_t cells = (size_t)(M->shared >> M->shared_shift) + 1;
    uint64_t executed = 0;
    epoch = instruction = 0;
    memset(smem, 0xbd, M->shared);
    memset(svalid, 0, M->shared);
    for (size_t k = 0; M->checks && k < cells; k++)
        clear_cell(scells + k);
    for (int k = 0; k < M->warps; k++)
        start_warp(warps + k);
    for (;;) {
        *random = *random * 1664525u + 1013904223u;
        const unsigned first = M->seed ? *random >> 8 : 0, step = M->seed && *random >> 31 ? M->warps - 1 : 1;
        for (int k = 0; k < M->warps; k++) {
            Warp *w = warps + (first + k * step) % M->warps;
            if (w->state == RUNS && run_warp(w, &executed))
                return -1;
        }
        int64_t clock;
        const int more = meet(warps, &clock);
        if (more <= 0)
            return more ? -1 : clock;
    }
}

/* Blocks order[0..n) of the launch, from registers that are the same in all lanes and warps. cycles: what each
   block took. Returns 0, or 1 if one was given up. */
int run(Machine *machine, const int32_t *order, int64_t n, const uint32_t *R, const uint64_t *Q, const uint32_t *P,
        int64_t *cycles)
{
    M = machine;
    fuzz = M->fuzz;
    const size_t registers = (size_t)(M->nr + M->nq + M->np);
    smem = malloc(M->shared + 64), svalid = malloc(M->shared + 64);
    scells = malloc(((M->shared >> M->shared_shift) + 1) * sizeof(Cell));
    Warp *warps = calloc(M->warps, sizeof(Warp));
    for (int k = 0; k < M->warps; k++) {
        Warp *w = warps + k;
        w->number = k;
        w->R = aligned_alloc(64, 128 * (size_t)(M->nr + 1));
        w->Q = aligned_alloc(64, 256 * (size_t)(M->nq + 1));
        w->P = calloc(M->np + 1, sizeof *w->P);
        w->ready = calloc(registers + 1, sizeof *w->ready);
        for (int r = 0; r < M->nr; r++)
            LANES w->R[32 * r + i] = R[r];
        for (int q = 0; q < M->nq; q++)
            LANES w->Q[32 * q + i] = Q[q];
        memcpy(w->P, P, sizeof *w->P * (size_t)M->np);
        LANES w->R[32 * M->tid + i] = 32 * k + i;
    }
    uint32_t random = M->seed * 2654435761u + 12345;
    int failed = 0;
    for (int64_t number = 0; number < n && !failed; number++) {
        block = order[number];
        cycles[number] = run_block(warps, &random);
        failed = cycles[number] < 0;
    }
    for (int k = 0; k < M->warps; k++)
        free(warps[k].R), free(warps[k].Q), free(warps[k].P), free(warps[k].ready);
    free(warps), free(smem), free(svalid), free(scells);
    return failed;
}

/* What the caller's structures must be as long as. */
void sizes(int64_t *bytes)
{
    bytes[0] = sizeof(Ins), bytes[1] = sizeof(Region), bytes[2] = sizeof(Fault), bytes[3] = sizeof(Machine);
    bytes[4] = sizeof(Cell);
}

void clear_cells(Cell *cells, int64_t n)
{
    for (int64_t k = 0; k < n; k++)
        clear_cell(cells + k);
}
