/* From one sorted ranking to what is asked of it: counts, loss-augmented inference, value, gradient, ranks, AP. */
#include "ranking.h"

#include <math.h>
#include <stdlib.h>

static void share(const Ranking *ranking, int64_t steps, Task *task, void *work)
{
    in_parts(ranking->threads, parts_for(steps, ranking->threads), task, work);
}

/* Counts and sums */

/* How many negatives stand above a score, or level with it too, given that `from` do: the search starts nearby. */
static int32_t count_above(Sorted negatives, int32_t from, double score, int level)
{
#define IS_ABOVE(place) (level ? score_at(negatives, place) >= score : score_at(negatives, place) > score)
    int64_t above = from, end = negatives.count, step = 1; /* `above` are, those from `end` on are not */
    while (above + step <= negatives.count) {
        if (!IS_ABOVE((int32_t)(above + step - 1))) {
            end = above + step - 1;
            break;
        }
        above += step;
        step *= 2;
    }
    while (above < end) {
        int64_t middle = (above + end) >> 1;
        if (IS_ABOVE((int32_t)middle))
            above = middle + 1;
        else
            end = middle;
    }
#undef IS_ABOVE
    return (int32_t)above;
}

static void count_part(void *work, int part, int parts)
{
    const Ranking *ranking = work;
    int32_t lo = 0, hi = 0;
    const int64_t to = part_start(ranking->positives.count, part + 1, parts);
    for (int64_t row = part_start(ranking->positives.count, part, parts); row < to; row++) {
        ranking->lo[row] = lo = count_above(ranking->negatives, lo, ranking->p[row], 0);
        ranking->hi[row] = hi = count_above(ranking->negatives, hi > lo ? hi : lo, ranking->p[row], 1);
    }
}

/* Counts, sums, and the terms made of them. F sees differences of scores only, so sums may count from anywhere; from the
 * middle positive, because rows choose among the negatives around them, however far below the others lie. */
static Terms terms_of(Ranking *ranking, const Objective *objective)
{
    const Sorted negatives = ranking->negatives;
    const double centre = ranking->p[ranking->positives.count / 2];
    double sum = ranking->sum[0] = 0.0;
    for (int32_t place = 0; place < negatives.count; place++)
        ranking->sum[place + 1] = sum += score_at(negatives, place) - centre;
    share(ranking, (int64_t)ranking->positives.count * STEPS_A_ROW, count_part, ranking);
    return (Terms){.negatives = negatives,
                   .sum = ranking->sum,
                   .p = ranking->p,
                   .lo = ranking->lo,
                   .hi = ranking->hi,
                   .rows = ranking->positives.count,
                   .centre = centre,
                   .task = negatives.count * (0.5 * objective->sign * objective->epsilon),
                   .threads = ranking->threads};
}

/* Whether no sum of the search overflows: sums of terms over the rows, of gaps over all pairs, and the like. */
static int can_sum(const Terms *terms)
{
    const double highest = fmax(terms->p[0], score_at(terms->negatives, 0));
    const double lowest = fmin(terms->p[terms->rows - 1], score_at(terms->negatives, terms->negatives.count - 1));
    const double pairs = (double)terms->rows * terms->negatives.count;
    return isfinite(16.0 * pairs * (highest - lowest)) && isfinite(16.0 * terms->rows * terms->task);
}

static int takes_part(const Ranking *ranking) { return ranking->positives.count && ranking->negatives.count; }

/* Infinities and NaN sort to the ends. */
static int is_finite(Sorted sorted)
{
    return isfinite(score_at(sorted, 0)) && isfinite(score_at(sorted, sorted.count - 1));
}

static int has_nan(Sorted sorted)
{
    return sorted.count && (isnan(score_at(sorted, 0)) || isnan(score_at(sorted, sorted.count - 1)));
}

static int solve(const Ranking *ranking, const Terms *terms, const Objective *objective, Watch *watch)
{
    if (!objective->chosen_weight)
        memcpy(ranking->a, ranking->lo, sizeof *ranking->a * (size_t)terms->rows);
    else if (objective->full)
        return full_program(terms, ranking->a, watch);
    else if (objective->sign > 0)
        return positive_update(terms, ranking->a, watch);
    else
        return negative_update(terms, ranking->a, watch);
    return 0;
}

/* Sums of scores that span so many epsilons have lost what is small against one. */
#define FAR 0x1p20

/* How large a gap between neighbouring scores, of whatever class, may stay: AP does not pay a row for one negative more
 * or less at more than |task| from it, so that no larger gap is ever crossed, and one of twice that does as well. */
static double largest_gap(const Terms *terms) { return 2.0 * fabs(terms->task); }

static int is_far(const Terms *terms, const Objective *objective)
{
    const double span = fmax(terms->p[0], score_at(terms->negatives, 0)) - terms->p[terms->rows - 1];
    return span > FAR * objective->epsilon && span > largest_gap(terms);
}

/* The same terms less the gaps that are never crossed: the same optimum, in sums that keep their digits. */
static int cut_gaps(Ranking *ranking, Terms *terms)
{
    const Sorted negatives = terms->negatives;
    const size_t rows = (size_t)terms->rows, columns = (size_t)negatives.count;
    free(ranking->near);
    Wide *records = ranking->near = malloc(columns * sizeof *records + (rows + columns + 1) * sizeof(double));
    if (!records)
        return NO_MEMORY;
    double *p = (double *)(records + columns), *sum = p + rows;
    const double most = largest_gap(terms);
    double last = fmax(terms->p[0], score_at(negatives, 0)), near = 0.0;
    for (int32_t row = 0, place = 0; row < terms->rows || place < negatives.count;) {
        const int is_row = place == negatives.count || (row < terms->rows && terms->p[row] >= score_at(negatives, place));
        const double score = is_row ? terms->p[row] : score_at(negatives, place);
        near -= fmin(last - score, most);
        last = score;
        if (is_row)
            p[row++] = near;
        else
            records[place++] = wide_record(near, 0);
    }
    terms->negatives = (Sorted){records, negatives.count, 1};
    terms->p = p;
    terms->sum = sum;
    terms->centre = p[rows / 2];
    sum[0] = 0.0;
    for (int32_t place = 0; place < negatives.count; place++)
        sum[place + 1] = sum[place] + (score_at(terms->negatives, place) - terms->centre);
    return SOLVED;
}

/* Counts, sums and loss-augmented inference; `*solved` is 0 where there is nothing to solve or a sum would overflow.
 * `near` are the terms that were solved, of scores less the gaps between them where those are too large. */
static int infer(Ranking *ranking, const Objective *objective, Terms *terms, Terms *near, int *solved, Watch *watch)
{
    *solved = takes_part(ranking) && is_finite(ranking->positives) && is_finite(ranking->negatives);
    if (!*solved)
        return SOLVED;
    *near = *terms = terms_of(ranking, objective);
    *solved = can_sum(terms);
    if (*solved && objective->chosen_weight && is_far(terms, objective) && cut_gaps(ranking, near))
        return NO_MEMORY;
    lap(watch, STAGE_SUMS);
    return *solved && solve(ranking, near, objective, watch) ? NO_MEMORY : SOLVED;
}

/* Losses */

/* sum_i (S[lo_i] - lo_i p_i), the gaps of all pairs that the ranking by score has the wrong way round; a sum of nothing
 * negative, from gap to gap, which loses no digits to scores far away. */
static double standard_gap(const Terms *terms)
{
    double total = 0.0;
    int32_t lo = 0;
    for (int32_t row = 0; row < terms->rows; row++) {
        double gap = lo ? lo * (terms->p[row - 1] - terms->p[row]) : 0.0; /* more than row - 1 has */
        for (; lo < terms->lo[row]; lo++)
            gap += score_at(terms->negatives, lo) - terms->p[row];
        total += gap * (terms->rows - row);
    }
    return total;
}

static double loss_of(const Ranking *ranking, const Terms *terms, const Terms *near, const Objective *objective)
{
    /* The direct losses see only pairs that the two rankings order differently, none of them across a large gap. */
    double gap = objective->standard_weight < 0 ? 0.0 : standard_gap(terms), task = 0.0;
    for (int32_t row = 0; row < terms->rows; row++) {
        gap += standard_of(near, near->p[row], ranking->a[row]);
        gap -= standard_of(near, near->p[row], ranking->lo[row]);
        task += task_loss(row + 1.0, ranking->a[row]);
    }
    double loss = gap * (2.0 * objective->gain) / ((double)terms->rows * terms->negatives.count);
    if (objective->task_weight)
        loss += objective->task_weight * (task / terms->rows);
    return isfinite(loss) ? fmin(fmax(loss, 0.0), objective->ceiling) : NAN; /* sums may overflow */
}

typedef struct {
    const Ranking *ranking;
    double chosen_weight, standard_weight, scale;
    void *gradient;
} Filling;

static inline void put(const Filling *filling, Sorted sorted, int32_t place, double gradient)
{
    uint32_t item = item_at(sorted, place);
    if (sorted.wide)
        ((double *)filling->gradient)[item] = gradient;
    else
        ((float *)filling->gradient)[item] = (float)gradient;
}

/* The first place from `place` on where a group of equal scores begins. */
static int32_t group_start(Sorted sorted, int64_t place)
{
    if (place == 0 || place == sorted.count)
        return (int32_t)place;
    return count_above(sorted, (int32_t)place, score_at(sorted, (int32_t)place - 1), 1);
}

/* Equal positives get the mean of what they got. */
static void fill_positives(void *work, int part, int parts)
{
    const Filling *filling = work;
    const Ranking *ranking = filling->ranking;
    const Sorted sorted = ranking->positives;
    const int32_t to = group_start(sorted, part_start(sorted.count, part + 1, parts));
    for (int32_t first = group_start(sorted, part_start(sorted.count, part, parts)), end; first < to; first = end) {
        double above = 0.0;
        for (end = first; end < to && ranking->p[end] == ranking->p[first]; end++)
            above += filling->chosen_weight * ranking->a[end] +
                     filling->standard_weight * ((double)ranking->lo[end] + ranking->hi[end]);
        for (int32_t row = first; row < end; row++)
            put(filling, sorted, row, above / (end - first) * -filling->scale);
    }
}

/* #{i : a_i > place}, `a` non-decreasing, for places that come in order; *row is the first row counted so far. */
static inline int32_t rows_below(const int32_t *a, int32_t rows, int32_t *row, int32_t place)
{
    while (*row < rows && a[*row] <= place)
        ++*row;
    return rows - *row;
}

static int32_t first_row_beyond(const int32_t *a, int32_t rows, int32_t place)
{
    int32_t first = 0;
    while (first < rows) {
        int32_t middle = first + (rows - first) / 2;
        if (a[middle] <= place)
            first = middle + 1;
        else
            rows = middle;
    }
    return first;
}

/* The negative at `place` gets a weight for every row that stands below it. Equal negatives, some of which y_direct
 * puts above a positive and some below it, get the mean: which of them comes first is arbitrary. */
static void fill_negatives(void *work, int part, int parts)
{
    const Filling *filling = work;
    const Ranking *ranking = filling->ranking;
    const Sorted sorted = ranking->negatives;
    const int32_t rows = ranking->positives.count;
    const int32_t *a = ranking->a, *lo = ranking->lo, *hi = ranking->hi;
    const int32_t from = group_start(sorted, part_start(sorted.count, part, parts));
    const int32_t to = group_start(sorted, part_start(sorted.count, part + 1, parts));
    int32_t row_a = first_row_beyond(a, rows, from);
    int32_t row_lo = first_row_beyond(lo, rows, from), row_hi = first_row_beyond(hi, rows, from);
    for (int32_t place = from, end; place < to; place = end) {
        /* Up to `end` all counts are the same. */
        const double chosen = rows_below(a, rows, &row_a, place);
        const double standard = (double)rows_below(lo, rows, &row_lo, place) + rows_below(hi, rows, &row_hi, place);
        end = to;
        end = row_lo < rows && lo[row_lo] < end ? lo[row_lo] : end;
        end = row_hi < rows && hi[row_hi] < end ? hi[row_hi] : end;
        int32_t first = end, last = end; /* a group that y_direct cuts */
        if (row_a < rows && a[row_a] < end) {
            first = end = a[row_a];
            if (score_at(sorted, end) == score_at(sorted, end - 1)) {
                while (first > place && score_at(sorted, first - 1) == score_at(sorted, end))
                    first--;
                while (end < to && score_at(sorted, end) == score_at(sorted, first))
                    end++;
            }
            last = end;
        }
        const double others = filling->standard_weight * standard;
        for (; place < first; place++)
            put(filling, sorted, place, (filling->chosen_weight * chosen + others) * filling->scale);
        double sum = 0.0;
        for (int32_t each = first; each < last; each++)
            sum += filling->chosen_weight * rows_below(a, rows, &row_a, each) + others;
        for (; place < last; place++)
            put(filling, sorted, place, sum / (last - first) * filling->scale);
    }
}

static void fill_constant(const Batch *batch, const Ranking *ranking, double taken, void *gradient)
{
    for (int64_t item = 0; item < ranking->items; item++) {
        double each = ranking->class[item] == IGNORED ? 0.0 : taken;
        if (batch->wide)
            ((double *)gradient)[item] = each;
        else
            ((float *)gradient)[item] = (float)each;
    }
}

int write_losses(const Batch *batch, const Objective *objective, const Outcome *outcome, int64_t line,
                 Ranking *ranking, Watch *watch)
{
    const size_t size = batch->wide ? sizeof(double) : sizeof(float);
    void *gradient = (char *)outcome->gradient + size * (size_t)ranking->start;
    Terms terms, near;
    int solved;
    if (infer(ranking, objective, &terms, &near, &solved, watch))
        return NO_MEMORY;
    const double loss = solved ? loss_of(ranking, &terms, &near, objective) : takes_part(ranking) ? NAN : 0.0;
    if (solved && !isnan(loss)) {
        if (terms.rows + (int64_t)terms.negatives.count < ranking->items)
            memset(gradient, 0, size * (size_t)ranking->items);
        Filling filling = {ranking, objective->chosen_weight, objective->standard_weight,
                           objective->gain / ((double)terms.rows * terms.negatives.count), gradient};
        share(ranking, terms.rows, fill_positives, &filling);
        share(ranking, terms.negatives.count, fill_negatives, &filling);
    } else {
        fill_constant(batch, ranking, loss, gradient); /* 0 or NaN */
    }
    if (outcome->loss_wide)
        ((double *)outcome->loss)[line] = loss;
    else
        ((float *)outcome->loss)[line] = (float)loss;
    outcome->takes_part[line] = (unsigned char)takes_part(ranking);
    lap(watch, STAGE_OUTCOME);
    return SOLVED;
}

/* max F + s epsilon L */
static double value_of(const Ranking *ranking, const Terms *terms, const Objective *objective)
{
    const double rows = terms->rows, columns = terms->negatives.count;
    double positives = 0.0, gap = 0.0, task = 0.0;
    for (int32_t row = 0; row < terms->rows; row++) {
        positives += terms->p[row] - terms->centre;
        gap += standard_of(terms, terms->p[row], ranking->a[row]);
        task += task_loss(row + 1.0, ranking->a[row]);
    }
    double value = positives / rows - terms->sum[terms->negatives.count] / columns + gap * (2.0 / (rows * columns));
    return value + task / rows * (objective->sign * objective->epsilon);
}

/* That value and the place of every item. A ranking that lacks a class is ranked by score. */
int write_ranks(const Objective *objective, const Outcome *outcome, int64_t line, Ranking *ranking, Watch *watch)
{
    int64_t *ranks = outcome->ranks + ranking->start;
    const int32_t rows = ranking->positives.count, columns = ranking->negatives.count;
    Terms terms, near;
    int solved;
    memset(ranking->a, 0, sizeof *ranking->a * (size_t)rows);
    if (infer(ranking, objective, &terms, &near, &solved, watch))
        return NO_MEMORY;
    for (int64_t item = 0; item < ranking->items; item++)
        ranks[item] = -1;
    int32_t place = 0;
    for (int32_t row = 0; row < rows; row++) {
        for (; place < ranking->a[row]; place++)
            ranks[item_at(ranking->negatives, place)] = (int64_t)place + row;
        ranks[item_at(ranking->positives, row)] = (int64_t)row + ranking->a[row];
    }
    for (; place < columns; place++)
        ranks[item_at(ranking->negatives, place)] = (int64_t)place + rows;
    outcome->value[line] = solved ? value_of(ranking, &terms, objective) : NAN;
    return SOLVED;
}

/* Equal scores form one threshold; NaN without a positive or with a NaN score. */
int write_precision(const Outcome *outcome, int64_t line, Ranking *ranking)
{
    const int32_t rows = ranking->positives.count;
    double precision = NAN;
    if (rows && !has_nan(ranking->positives) && !has_nan(ranking->negatives)) {
        share(ranking, (int64_t)ranking->positives.count * STEPS_A_ROW, count_part, ranking);
        precision = 0.0;
        for (int32_t first = 0, end; first < rows; first = end) {
            for (end = first + 1; end < rows && ranking->p[end] == ranking->p[first];)
                end++;
            for (int32_t row = first; row < end; row++)
                precision += end / ((double)end + ranking->hi[row]);
        }
        precision /= rows;
    }
    outcome->precision[line] = precision;
    return SOLVED;
}
