/* What is asked of one ranking: loss and gradient, ranks and value, AP. */
#include "batch.h"

#include <float.h>
#include <math.h>

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
    double gap = objective->second == PERFECT ? standard_gap(terms) : 0.0, task = 0.0;
    const int has_two = objective->second == LESS_LOSS;
    const int32_t *second = has_two ? ranking->b : ranking->lo;
    for (int32_t row = 0; row < terms->rows; row++) {
        gap += standard_of(near, near->p[row], ranking->a[row]);
        gap -= standard_of(near, near->p[row], second[row]);
        task += cost_of(terms, row + 1.0, ranking->a[row]);
        if (has_two)
            task += cost_of(terms, row + 1.0, second[row]);
    }
    double loss = gap * (2.0 * objective->gain) / ((double)terms->rows * terms->negatives.count);
    if (objective->task_weight)
        loss += objective->task_weight * (task / terms->best + (has_two ? 2.0 : 1.0) * terms->lowest);
    return isfinite(loss) ? fmin(fmax(loss, 0.0), objective->ceiling) : NAN; /* sums may overflow */
}

/* What the gradient is made of: choices of the rows, and how often each counts. */
typedef struct {
    const int32_t *choice;
    double weight;
} Part;

#define MOST_SUMMANDS 3
typedef struct {
    const Ranking *ranking;
    Part summands[MOST_SUMMANDS];
    int count;
    double scale;
    void *gradient;
} Filling;

/* Of equal scores half stand above in the ranking by score; of y* nothing is left, as no negative is above. */
static void add_ranking(Filling *filling, int wanted, const int32_t *choice, double weight)
{
    if (wanted == BY_SCORE) {
        filling->summands[filling->count++] = (Part){filling->ranking->lo, 0.5 * weight};
        filling->summands[filling->count++] = (Part){filling->ranking->hi, 0.5 * weight};
    } else if (wanted != PERFECT) {
        filling->summands[filling->count++] = (Part){choice, weight};
    }
}

static inline void put(const Filling *filling, Sorted sorted, int32_t place, double gradient)
{
    put_gradient(filling->gradient, sorted.wide, item_at(sorted, place), gradient);
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
            for (int each = 0; each < filling->count; each++)
                above += filling->summands[each].weight * filling->summands[each].choice[end];
        for (int32_t row = first; row < end; row++)
            put(filling, sorted, row, above / (end - first) * -filling->scale);
    }
}

/* Of every summand #{i : choice_i > place}, by weight, for places that come in order; row[] are the first counted so
 * far. Up to *end nothing changes. */
static inline double rows_below(const Filling *filling, int32_t *row, int32_t place, int32_t *end)
{
    const int32_t rows = filling->ranking->positives.count;
    double below = 0.0;
    for (int each = 0; each < filling->count; each++) {
        const int32_t *choice = filling->summands[each].choice;
        while (row[each] < rows && choice[row[each]] <= place)
            ++row[each];
        below += filling->summands[each].weight * (rows - row[each]);
        if (row[each] < rows && choice[row[each]] < *end)
            *end = choice[row[each]];
    }
    return below;
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

/* The negative at `place` gets a weight for every row that stands below it. Equal negatives, some of which a ranking
 * puts above a positive and some below it, get the mean: which of them comes first is arbitrary. */
static void fill_negatives(void *work, int part, int parts)
{
    const Filling *filling = work;
    const Sorted sorted = filling->ranking->negatives;
    const int32_t from = group_start(sorted, part_start(sorted.count, part, parts));
    const int32_t to = group_start(sorted, part_start(sorted.count, part + 1, parts));
    int32_t row[MOST_SUMMANDS];
    for (int each = 0; each < filling->count; each++)
        row[each] = first_row_beyond(filling->summands[each].choice, filling->ranking->positives.count, from);
    for (int32_t place = from, last; place < to; place = last) {
        int32_t first = to;
        const double below = rows_below(filling, row, place, &first);
        last = first;
        if (first < to && score_at(sorted, first) == score_at(sorted, first - 1)) { /* a group that is cut */
            while (first > place && score_at(sorted, first - 1) == score_at(sorted, last))
                first--;
            while (last < to && score_at(sorted, last) == score_at(sorted, first))
                last++;
        }
        for (; place < first; place++)
            put(filling, sorted, place, below * filling->scale);
        double sum = 0.0;
        for (int32_t each = first, end = to; each < last; each++)
            sum += rows_below(filling, row, each, &end);
        for (; place < last; place++)
            put(filling, sorted, place, sum / (last - first) * filling->scale);
    }
}

void fill_constant(const Batch *batch, const Ranking *ranking, double taken, void *gradient)
{
    for (int64_t item = 0; item < ranking->items; item++)
        put_gradient(gradient, batch->wide, item, ranking->class[item] == IGNORED ? 0.0 : taken);
}

void put_loss(const Output *output, int64_t line, double loss, int takes_part)
{
    if (output->loss_wide)
        ((double *)output->loss)[line] = loss;
    else
        ((float *)output->loss)[line] = (float)loss;
    output->takes_part[line] = (unsigned char)takes_part;
}

static void fill(const Batch *batch, const Objective *objective, const Ranking *ranking, double loss, int solved,
                 void *gradient)
{
    const int32_t rows = ranking->positives.count, columns = ranking->negatives.count;
    if (!solved || isnan(loss)) {
        fill_constant(batch, ranking, loss, gradient); /* 0 or NaN */
        return;
    }
    if (rows + (int64_t)columns < ranking->items)
        memset(gradient, 0, (batch->wide ? sizeof(double) : sizeof(float)) * (size_t)ranking->items);
    Filling filling = {.ranking = ranking, .scale = 2.0 * objective->gain / ((double)rows * columns), .gradient = gradient};
    add_ranking(&filling, objective->first, ranking->a, 1.0);
    add_ranking(&filling, objective->second, ranking->b, -1.0);
    share(ranking, rows, fill_positives, &filling);
    share(ranking, columns, fill_negatives, &filling);
}

void write_losses(const Batch *batch, const Objective *objective, const Output *output, int64_t line,
                  const Ranking *ranking, const Solution *solution)
{
    double loss = takes_part(ranking) ? NAN : 0.0;
    if (solution->solved)
        loss = loss_of(ranking, &solution->terms, &solution->near, objective);
    if (output->gradient) {
        const size_t start = (batch->wide ? sizeof(double) : sizeof(float)) * (size_t)ranking->start;
        fill(batch, objective, ranking, loss, solution->solved, (char *)output->gradient + start);
    }
    put_loss(output, line, loss, takes_part(ranking));
}

/* max F + s epsilon L */
static double value_of(const Ranking *ranking, const Terms *terms, const Objective *objective)
{
    const double rows = terms->rows, columns = terms->negatives.count;
    double positives = 0.0, gap = 0.0, task = 0.0;
    for (int32_t row = 0; row < terms->rows; row++) {
        positives += terms->p[row] - terms->centre;
        gap += standard_of(terms, terms->p[row], ranking->a[row]);
        task += cost_of(terms, row + 1.0, ranking->a[row]);
    }
    double value = positives / rows - terms->sum[terms->negatives.count] / columns + gap * (2.0 / (rows * columns));
    return value + (task / terms->best + terms->lowest) * (sign_of(objective->first) * objective->epsilon);
}

/* That value and the place of every item. A ranking that lacks a class is ranked by score. */
void write_ranks(const Objective *objective, const Output *output, int64_t line, const Ranking *ranking,
                 const Solution *solution)
{
    int64_t *ranks = output->ranks + ranking->start;
    const int32_t rows = ranking->positives.count, columns = ranking->negatives.count;
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
    output->value[line] = solution->solved ? value_of(ranking, &solution->terms, objective) : NAN;
}

/* AP: equal scores form one threshold */

static int has_nan(Sorted sorted)
{
    return sorted.count && (isnan(score_at(sorted, 0)) || isnan(score_at(sorted, sorted.count - 1)));
}

/* The first row below `first` whose score is another. */
static int32_t end_of_equal(const Ranking *ranking, int32_t first)
{
    const double score = score_at(ranking->positives, first);
    int32_t end = first + 1;
    while (end < ranking->positives.count && score_at(ranking->positives, end) == score)
        end++;
    return end;
}

/* How many rows are among so many best items, or tie with the last of these. */
static int32_t rows_of_best(const Ranking *ranking, int64_t best)
{
    const int32_t rows = ranking->positives.count;
    int32_t first = 0;
    while (first < rows && (!best || (int64_t)first + ranking->lo[first] < best))
        first = best ? end_of_equal(ranking, first) : rows;
    return first;
}

/* 1 / P * sum over rows of the precision at their threshold */
static double precision_of(const Ranking *ranking, int32_t rows)
{
    double precision = 0.0;
    for (int32_t first = 0, end; first < rows; first = end) {
        end = end_of_equal(ranking, first);
        for (int32_t row = first; row < end; row++)
            precision += end / ((double)end + ranking->hi[row]);
    }
    return precision / rows;
}

typedef struct {
    const Measure *measure;
    Sorted sorted;
    int64_t start; /* of the ranking in the batch */
    double *weight;
} Weighing;

#define STEPS_A_WEIGHT 4

/* The weights of a class in the order of its scores; a wrong one is NaN. */
static void weigh_part(void *work, int part, int parts)
{
    const Weighing *weighing = work;
    const Sorted sorted = weighing->sorted;
    const double *wide = (const double *)weighing->measure->weight + weighing->start;
    const float *narrow = (const float *)weighing->measure->weight + weighing->start;
    const int64_t to = part_start(sorted.count, part + 1, parts);
    for (int64_t place = part_start(sorted.count, part, parts); place < to; place++) {
        const uint32_t item = item_at(sorted, (int32_t)place);
        const double weight = weighing->measure->wide ? wide[item] : (double)narrow[item];
        weighing->weight[place] = weight >= 0.0 && weight <= DBL_MAX ? weight : NAN;
    }
}

/* weight[a] becomes the sum of the first `a` of so many: their weights, from weight[1] on, in score order. */
static void weigh(const Measure *measure, const Ranking *ranking, Sorted sorted, double *weight)
{
    Weighing weighing = {measure, sorted, ranking->start, weight + 1};
    share(ranking, (int64_t)sorted.count * STEPS_A_WEIGHT, weigh_part, &weighing);
    weight[0] = 0.0;
    for (int32_t place = 0; place < sorted.count; place++)
        weight[place + 1] += weight[place];
}

/* sum over thresholds k of (T_k - T_{k-1}) / T * T_k / (T_k + F_k), T_k and F_k the weights of the positives and of the
 * negatives at or above the threshold */
static double weighted_precision_of(const Ranking *ranking, int32_t rows)
{
    const double *positives = ranking->p, *negatives = ranking->sum;
    double precision = 0.0;
    for (int32_t first = 0, end; first < rows; first = end) {
        end = end_of_equal(ranking, first);
        if (positives[end] > positives[first])
            precision += (positives[end] - positives[first]) *
                         (positives[end] / (positives[end] + negatives[ranking->hi[first]]));
    }
    return fmin(precision / positives[rows], 1.0);
}

/* NaN without a positive of any weight, with a NaN score and with a wrong weight; 0 where the best have no positive. */
void write_precision(const Measure *measure, int64_t line, Ranking *ranking)
{
    double precision = NAN, positives = ranking->positives.count, negatives = ranking->negatives.count;
    const int ranks = ranking->positives.count && !has_nan(ranking->positives) && !has_nan(ranking->negatives);
    int32_t rows = 0;
    if (ranks) {
        count_negatives(ranking);
        rows = rows_of_best(ranking, measure->best);
    }
    if (measure->weight) {
        weigh(measure, ranking, ranking->positives, ranking->p); /* in place of the scores, which the records have */
        weigh(measure, ranking, ranking->negatives, ranking->sum);
        positives = ranking->p[ranking->positives.count];
        negatives = ranking->sum[ranking->negatives.count];
        if (ranks && positives > 0.0 && isfinite(positives) && !isnan(negatives))
            precision = ranking->p[rows] > 0.0 ? weighted_precision_of(ranking, rows) : 0.0;
    } else if (ranks) {
        precision = rows ? precision_of(ranking, rows) : 0.0;
    }
    measure->precision[line] = precision;
    if (measure->positives) {
        measure->positives[line] = positives;
        measure->negatives[line] = negatives;
    }
}
