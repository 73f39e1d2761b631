/* The rankings of a batch, shared out among threads; one longer than a thread's share has all of them to itself. */
#include "ranking.h"

#include <stdatomic.h>
#include <stdlib.h>

#define STEPS_A_SCORE 20

/* Threads take the next ranking that nobody has taken; no result depends on who takes which. */
typedef struct {
    const Batch *batch;
    const Objective *objective;
    const Outcome *outcome;
    Watch *watch;
    int64_t share, longest; /* a thread's share of the items; of the rankings that are not longer the longest, or -1 */
    atomic_llong next;
    atomic_int status;
} Work;

static int64_t start_of(const Batch *batch, int64_t line)
{
    return batch->offsets ? batch->offsets[line] : line * batch->items;
}

static int64_t length_of(const Batch *batch, int64_t line) { return start_of(batch, line + 1) - start_of(batch, line); }

static int solve_ranking(const Work *work, int64_t line, Ranking *ranking)
{
    ranking->start = start_of(work->batch, line);
    ranking->items = length_of(work->batch, line);
    lap(work->watch, -1);
    int status = sort_ranking(work->batch, ranking);
    lap(work->watch, STAGE_SORT);
    if (status != SOLVED)
        return status;
    if (work->outcome->precision)
        return write_precision(work->outcome, line, ranking);
    if (work->outcome->ranks)
        return write_ranks(work->objective, work->outcome, line, ranking, work->watch);
    return write_losses(work->batch, work->objective, work->outcome, line, ranking, work->watch);
}

static void forget(Ranking *ranking)
{
    free(ranking->class);
    free(ranking->memory);
    free(ranking->near);
}

/* One after the other, each by all threads. */
static int solve_long(Work *work, int threads)
{
    int status = SOLVED;
    for (int64_t line = 0; status == SOLVED && line < work->batch->rankings; line++) {
        const int64_t length = length_of(work->batch, line);
        if (length > work->share) {
            Ranking ranking = {.class = malloc((size_t)length), .threads = threads};
            status = ranking.class ? solve_ranking(work, line, &ranking) : NO_MEMORY;
            forget(&ranking);
        } else if (length > work->longest) {
            work->longest = length;
        }
    }
    return status;
}

static void solve_some(void *argument, int part, int parts)
{
    Work *work = argument;
    Ranking ranking = {.class = malloc((size_t)work->longest + 1), .threads = 1};
    int status = ranking.class ? SOLVED : NO_MEMORY;
    for (long long line; status == SOLVED && (line = atomic_fetch_add(&work->next, 1)) < work->batch->rankings;)
        if (length_of(work->batch, line) <= work->share)
            status = solve_ranking(work, line, &ranking);
    if (status != SOLVED)
        atomic_store(&work->status, status);
    forget(&ranking);
    (void)part;
    (void)parts;
}

int solve_batch(const Batch *batch, const Objective *objective, const Outcome *outcome, Watch *watch)
{
    Work work = {.batch = batch, .objective = objective, .outcome = outcome, .watch = watch, .longest = -1};
    const int64_t items = start_of(batch, batch->rankings);
    const int enough = parts_for(items * STEPS_A_SCORE, batch->threads);
    const int threads = watch ? 1 : batch->threads < enough ? batch->threads : enough; /* a watch times one thread */
    work.share = threads > 1 ? items / threads : INT64_MAX;
    const int status = solve_long(&work, batch->threads);
    if (status != SOLVED || work.longest < 0)
        return status;
    in_parts(threads, threads < batch->rankings ? threads : (int)batch->rankings, solve_some, &work);
    return atomic_load(&work.status);
}
