/* The rankings of a batch, shared out among threads; a single long one has the threads to itself. */
#include "ranking.h"

#include <stdatomic.h>
#include <stdlib.h>

/* Starting a thread takes as long as some thousand scores; a long ranking starts some twenty. */
#define SCORES_A_THREAD 8192
#define SCORES_A_PART (1 << 17)

/* Threads take the next ranking that nobody has taken; no result depends on who takes which. */
typedef struct {
    const Batch *batch;
    const Objective *objective;
    const Outcome *outcome;
    Watch *watch;
    int parts;
    atomic_llong next;
    atomic_int status;
} Work;

static int solve_ranking(const Work *work, int64_t line, Ranking *ranking)
{
    lap(work->watch, -1);
    int status = sort_ranking(work->batch, line, ranking);
    lap(work->watch, STAGE_SORT);
    if (status != SOLVED)
        return status;
    if (work->outcome->precision)
        return write_precision(work->outcome, line, ranking);
    if (work->outcome->ranks)
        return write_ranks(work->batch, work->objective, work->outcome, line, ranking, work->watch);
    return write_losses(work->batch, work->objective, work->outcome, line, ranking, work->watch);
}

static void solve_some(void *argument, int part, int parts)
{
    Work *work = argument;
    Ranking ranking = {.class = malloc((size_t)work->batch->items), .parts = work->parts};
    int status = ranking.class ? SOLVED : NO_MEMORY;
    for (long long line; status == SOLVED && (line = atomic_fetch_add(&work->next, 1)) < work->batch->rankings;)
        status = solve_ranking(work, line, &ranking);
    if (status != SOLVED)
        atomic_store(&work->status, status);
    free(ranking.class);
    free(ranking.memory);
    (void)part;
    (void)parts;
}

static int64_t least(int64_t one, int64_t other) { return one < other ? one : other; }

int solve_batch(const Batch *batch, const Objective *objective, const Outcome *outcome, Watch *watch)
{
    Work work = {.batch = batch, .objective = objective, .outcome = outcome, .watch = watch};
    const int64_t most = least(batch->threads, MOST_PARTS), scores = batch->rankings * batch->items;
    const int64_t threads = least(least(most, batch->rankings), 1 + scores / SCORES_A_THREAD);
    work.parts = (int)(threads > 1 ? 1 : least(most, 1 + batch->items / SCORES_A_PART));
    in_parts(watch ? 1 : (int)threads, solve_some, &work); /* a watch times one ranking at a time */
    return atomic_load(&work.status);
}
