/* The rankings of a batch, shared out among threads; one longer than a thread's share has all of them to itself. */
#include "batch.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#define STEPS_A_SCORE 20

/* Threads take the next ranking that nobody has taken; no result depends on who takes which. */
typedef struct {
    const Batch *batch;
    const Objective *objective;
    const Output *output;
    const Measure *measure; /* or null: the objective's output */
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

/* Whether no sum of the search overflows: sums of terms over the rows, of gaps over all pairs, and the like. */
static int can_sum(const Terms *terms)
{
    const double highest = fmax(terms->p[0], score_at(terms->negatives, 0));
    const double lowest = fmin(terms->p[terms->rows - 1], score_at(terms->negatives, terms->negatives.count - 1));
    const double pairs = (double)terms->rows * terms->negatives.count;
    return isfinite(16.0 * pairs * (highest - lowest)) && isfinite(16.0 * terms->rows * terms->task * fmax(1.0, terms->most));
}

/* The choice of every row into `a`. */
static int solve(int32_t *a, int wanted, Terms *terms, const Objective *objective, Watch *watch)
{
    terms->task = sign_of(wanted) * fabs(terms->task);
    if (wanted == BY_SCORE)
        memcpy(a, terms->lo, sizeof *a * (size_t)terms->rows);
    else if (objective->full)
        return full_program(terms, a, watch);
    else if ((terms->measure == PRECISION || terms->measure == RECALL) && isfinite(terms->cutoff))
        return top_update(terms, a);
    else if (wanted == MORE_LOSS && isinf(terms->cutoff))
        return concave_update(terms, a, watch);
    else
        return any_update(terms, a, watch);
    return 0;
}

/* Counts, sums and loss-augmented inference. */
static int infer(Ranking *ranking, const Objective *objective, Solution *solution, Watch *watch)
{
    Terms *terms = &solution->terms, *near = &solution->near;
    solution->solved = takes_part(ranking) && is_finite(ranking->positives) && is_finite(ranking->negatives);
    if (!solution->solved)
        return SOLVED;
    if (terms_of(ranking, objective, terms))
        return NO_MEMORY;
    *near = *terms;
    solution->solved = can_sum(terms);
    if (solution->solved && objective->first != BY_SCORE && cut_gaps(ranking, near))
        return NO_MEMORY;
    lap(watch, STAGE_SUMS);
    if (!solution->solved)
        return SOLVED;
    if (objective->second == LESS_LOSS) {
        if (solve(ranking->a, LESS_LOSS, near, objective, watch))
            return NO_MEMORY;
        memcpy(ranking->b, ranking->a, sizeof *ranking->a * (size_t)near->rows); /* nobody asks for hi any more */
    }
    return solve(ranking->a, objective->first, near, objective, watch) ? NO_MEMORY : SOLVED;
}

static int solve_ranking(const Work *work, int64_t line, Ranking *ranking)
{
    ranking->start = start_of(work->batch, line);
    ranking->items = length_of(work->batch, line);
    lap(work->watch, -1);
    int status = split_ranking(work->batch, ranking);
    lap(work->watch, STAGE_SORT);
    if (status != SOLVED)
        return status;
    if (work->measure) {
        write_precision(work->measure, line, ranking);
        return SOLVED;
    }
    if (work->objective->first == SMOOTH)
        return write_smooth(work->batch, work->objective, work->output, line, ranking);
    Solution solution;
    memset(ranking->a, 0, sizeof *ranking->a * (size_t)ranking->positives.count);
    if (infer(ranking, work->objective, &solution, work->watch))
        return NO_MEMORY;
    if (work->output->ranks)
        write_ranks(work->objective, work->output, line, ranking, &solution);
    else
        write_losses(work->batch, work->objective, work->output, line, ranking, &solution);
    lap(work->watch, STAGE_OUTPUT);
    return SOLVED;
}

static void forget(Ranking *ranking)
{
    free(ranking->class);
    free(ranking->memory);
    free(ranking->near);
    free(ranking->discount);
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

static int solve_all(Work *work)
{
    const Batch *batch = work->batch;
    const int64_t items = start_of(batch, batch->rankings);
    const int enough = parts_for(items * STEPS_A_SCORE, batch->threads);
    const int threads = work->watch ? 1 : batch->threads < enough ? batch->threads : enough; /* a watch times one */
    work->share = threads > 1 ? items / threads : INT64_MAX;
    work->longest = -1;
    const int status = solve_long(work, batch->threads);
    if (status != SOLVED || work->longest < 0)
        return status;
    in_parts(threads, threads < batch->rankings ? threads : (int)batch->rankings, solve_some, work);
    return atomic_load(&work->status);
}

int solve_batch(const Batch *batch, const Objective *objective, const Output *output, Watch *watch)
{
    return solve_all(&(Work){.batch = batch, .objective = objective, .output = output, .watch = watch});
}

int measure_batch(const Batch *batch, const Measure *measure)
{
    return solve_all(&(Work){.batch = batch, .measure = measure});
}
