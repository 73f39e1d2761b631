/* Memory of a launch: every access is located, checked against what others did there, and counted.

   A global address is a region's number, from bit 40 on, and an offset: no tensor has a neighbour. */

/* An access of one lane. `soft` and `hard` count what orders the lanes of its warp: shuffles and votes, and beside them
   barriers and `bar.warp.sync`, after which one sees what another wrote. */
typedef struct {
    int32_t write, region, warp, lane, pc, soft, hard; /* region: -1 for shared memory */
    int64_t at;
} Access;

typedef struct {
    int32_t block, epoch, pc, soft, hard; /* block: -1 for nobody; epoch: of the block, up by one a barrier */
    int16_t warp;
    int8_t lane;
} Trace;

enum { SEVERAL = -2 }; /* in place of a warp or lane */

/* What is known of some bytes. */
typedef struct {
    Trace write, read;   /* the last ones */
    int32_t instruction; /* that wrote */
    int8_t unchanged;    /* since the last barrier, what was written was there before */
    int8_t changed;      /* some write of this launch did change it */
    int8_t other_blocks; /* read by more than one block */
} Cell;

typedef struct {
    uint8_t *host;
    uint64_t start, size; /* the offset of the first byte, which is aligned as the host's is */
    uint8_t *valid;       /* one a byte, or NULL: all of them */
    Cell *cells;          /* one per 1 << shift bytes, or NULL */
    int32_t *touched;     /* one a sector: 1 + the block that touched it last */
    int32_t shift, pad;
} Region;

typedef struct {
    int32_t kind, pc, other, block, warp, lane, count, region; /* other: the instruction before, or -1 */
    int64_t at;
} Fault;

typedef struct {
    const Ins *code;
    int32_t warps, nr, nq, np;
    int32_t shared, shared_shift;
    Region *regions;
    int32_t n_regions;
    int32_t checks, timing;
    uint64_t budget; /* warp instructions of one block */
    uint32_t seed;
    int32_t fuzz;
    int32_t tid, ctaid;         /* registers of R */
    int32_t hit, l2, smem, pad; /* latencies of loads */
    int64_t *spent; /* by instruction: cycles that a warp's clock went on there, executions, bank conflicts */
    Fault *faults;
    int32_t n_faults, most_faults;
    /* Counted over the launch, in warp instructions unless said otherwise. */
    uint64_t counts[IS_CLASSES], issue, sectors_ld, sectors_st, missed, conflicts, barriers, f64_slots;
} Machine;

static Machine *M;
static uint8_t *smem, *svalid;
static Cell *scells;
static int32_t block, epoch, instruction;

static void report(int kind, const Access *a, int other)
{
    for (int k = 0; k < M->n_faults; k++) {
        Fault *f = M->faults + k;
        if (f->kind == kind && f->pc == a->pc && f->other == other && f->region == a->region) {
            f->count++;
            return;
        }
    }
    if (M->n_faults < M->most_faults)
        M->faults[M->n_faults++] = (Fault){kind, a->pc, other, block, a->warp, a->lane, 1, a->region, a->at};
}

static void clear_cell(Cell *c)
{
    c->write.block = c->read.block = -1;
    c->other_blocks = c->changed = 0;
}

/* A pair of lanes of one warp, nothing but shuffles between them or nothing at all. */
static void check_lanes(const Trace *before, const Access *a)
{
    if (before->lane != a->lane && before->hard == a->hard)
        report(before->soft == a->soft ? RACE_LANES : LANES_SOFT, a, before->pc);
}

/* Against what was done to these bytes since the last barrier, or by other blocks of the launch. `same`: what is
   written is there already. */
static void check_cell(Cell *c, const Access *a, int same)
{
    Trace *const write = &c->write, *const read = &c->read;
    const int mine = a->region < 0 ? 0 : block;
    const Trace trace = {mine, epoch, a->pc, a->soft, a->hard, a->warp, a->lane};
    const int harmless = a->write ? same : c->unchanged;
    if (write->block >= 0) {
        if (write->block != mine) /* between blocks no barrier orders anything */
            report((a->write ? same : !c->changed) ? SAME_VALUE : RACE_BLOCKS, a, write->pc);
        else if (write->epoch == epoch && write->warp != a->warp)
            report(harmless ? SAME_VALUE : RACE_WARPS, a, write->pc);
        else if (write->epoch == epoch && write->lane != a->lane && a->write && c->instruction == instruction)
            report(harmless ? SAME_VALUE : SAME_STORE, a, write->pc);
        else if (write->epoch == epoch && !harmless)
            check_lanes(write, a);
    }
    if (!a->write) {
        if (read->block == mine && read->epoch == epoch) {
            read->lane = read->warp == a->warp && read->lane == a->lane ? a->lane : SEVERAL;
            read->warp = read->warp == a->warp ? a->warp : SEVERAL;
            read->pc = a->pc, read->soft = a->soft, read->hard = a->hard;
        } else {
            c->other_blocks |= read->block >= 0 && read->block != mine;
            *read = trace;
        }
        return;
    }
    if (read->block >= 0 && (read->block != mine || c->other_blocks))
        report(same ? SAME_VALUE : RACE_BLOCKS, a, read->pc);
    if (read->block == mine && read->epoch == epoch) {
        if (read->warp != a->warp)
            report(same ? SAME_VALUE : RACE_WARPS, a, read->pc);
        else if (!same)
            check_lanes(read, a);
    }
    c->changed |= !same;
    /* If several warps wrote since the last barrier, an earlier one may have changed the value. */
    c->unchanged = same && (write->block != mine || write->epoch != epoch || c->unchanged);
    *write = trace;
    c->instruction = instruction;
}

static void check_cells(Cell *cells, int shift, uint64_t offset, int bytes, const Access *a, int same)
{
    for (uint64_t k = offset >> shift; k <= (offset + bytes - 1) >> shift; k++)
        check_cell(cells + k, a, same);
}

/* Bytes that are written from now on; or a fault where some of those read were not. */
static void check_written(uint8_t *valid, int bytes, const Access *a)
{
    if (a->write)
        memset(valid, 1, bytes);
    else if (memchr(valid, 0, bytes))
        report(a->region < 0 ? SHARED_UNWRITTEN : UNWRITTEN, a, -1);
}

static uint8_t *locate_shared(uint64_t at, int bytes, const uint8_t *data, Access *a)
{
    a->region = -1, a->at = (int64_t)at;
    const int outside = at + bytes > (uint64_t)M->shared;
    if (outside || at % bytes) {
        report(outside ? SHARED_OUTSIDE : MISALIGNED, a, -1);
        return NULL;
    }
    if (M->checks) {
        check_cells(scells, M->shared_shift, at, bytes, a, a->write && !memcmp(smem + at, data, bytes));
        check_written(svalid + at, bytes, a);
    }
    return smem + at;
}

static uint8_t *locate_global(uint64_t at, int bytes, const uint8_t *data, Access *a)
{
    a->region = (int32_t)(at >> 40) - 1;
    Region *g = a->region >= 0 && a->region < M->n_regions ? M->regions + a->region : NULL;
    const uint64_t offset = g ? (at & 0xffffffffffull) - g->start : at;
    a->at = (int64_t)offset;
    if (!g)
        a->region = -1;
    const int outside = !g || offset > g->size || offset + bytes > g->size;
    if (outside || at % bytes) {
        report(outside ? OUTSIDE : MISALIGNED, a, -1);
        return NULL;
    }
    uint8_t *p = g->host + offset;
    if (M->checks && g->cells) {
        const int same = a->write && !memcmp(p, data, bytes) && (!g->valid || g->valid[offset]);
        check_cells(g->cells, g->shift, offset, bytes, a, same);
    }
    if (g->valid && (M->checks || a->write))
        check_written(g->valid + offset, bytes, a);
    return p;
}

/* Whether it is not among the n seen so far, which it joins. */
static int is_new(uint64_t *seen, int *n, uint64_t each)
{
    for (int k = *n - 1; k >= 0; k--)
        if (seen[k] == each)
            return 0;
    seen[(*n)++] = each;
    return 1;
}

/* Sectors of a global access of a warp; returns how many of them the block had not touched yet. */
static int count_global(const uint64_t *at, uint32_t m, int bytes, int write)
{
    uint64_t seen[64];
    int n = 0, missed = 0;
    for (int i = 0; i < 32; i++) {
        if (!(m >> i & 1))
            continue;
        for (uint64_t sector = at[i] >> 5; sector <= (at[i] + bytes - 1) >> 5; sector++) {
            if (!is_new(seen, &n, sector))
                continue;
            const int64_t number = (int64_t)(sector >> 35) - 1;
            if (number < 0 || number >= M->n_regions)
                continue;
            Region *g = M->regions + number;
            const uint64_t slot = (sector & 0x7ffffffffull) - (g->start >> 5);
            if (slot > (g->size >> 5) + 1)
                continue;
            missed += g->touched[slot] != block + 1;
            g->touched[slot] = block + 1;
        }
    }
    if (write)
        M->sectors_st += n;
    else
        M->sectors_ld += n, M->missed += missed;
    return missed;
}

/* Passes of a shared access beyond the first: lanes whose words differ but lie in one of the 32 banks. */
static int count_shared(const uint64_t *at, uint32_t m, int bytes)
{
    const int lanes = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
    int extra = 0;
    for (int first = 0; first < 32; first += lanes) {
        uint64_t words[128];
        int n = 0, depth[32] = {0}, most = 1;
        for (int i = first; i < first + lanes; i++) {
            if (!(m >> i & 1))
                continue;
            for (uint64_t word = at[i] >> 2; word <= (at[i] + bytes - 1) >> 2; word++)
                if (is_new(words, &n, word) && ++depth[word & 31] > most)
                    most = depth[word & 31];
        }
        extra += most - 1;
    }
    return extra;
}
