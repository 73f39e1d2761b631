/* SmoothAP (Brown et al., ECCV 2020) with the distribution function of Laplace in place of the sigmoid:
 *
 *     1 - 1/P sum_i R+_i / R_i,   R_i = 1 + sum_{j != i} G((s_j - s_i) / temperature),   R+_i over the positives alone
 *
 * G(x) is e^x / 2 below 0 and 1 - e^-x / 2 above. Along the sorted scores the sums of e^-|x| are linear recurrences from
 * either end, and so are those of the gradient: no pairs, and nothing overflows.
 */
#include "batch.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    double score;
    uint32_t item;
    int positive;
} Item;

/* Of an item sums of e^-|x| over all others and over the positives among them; then of the two parts of the gradient. */
typedef struct {
    double all, positives;
} Sums;

/* Both classes by falling score. */
static void merge(const Ranking *ranking, Item *items)
{
    const Sorted p = ranking->positives, n = ranking->negatives;
    for (int32_t row = 0, place = 0; row < p.count || place < n.count; items++) {
        const int is_row = place == n.count || (row < p.count && score_at(p, row) >= score_at(n, place));
        if (is_row)
            *items = (Item){score_at(p, row), item_at(p, row), 1};
        else
            *items = (Item){score_at(n, place), item_at(n, place), 0};
        row += is_row;
        place += !is_row;
    }
}

/* What the items before each one add up to, what stands there being worth `weight`, from either end. */
static void sum_both_ways(const Item *items, int64_t count, double temperature, const Sums *weight, Sums *above,
                          Sums *below)
{
    above[0] = below[count - 1] = (Sums){0.0, 0.0};
    for (int64_t k = 1; k < count; k++) {
        const double left = exp((items[k].score - items[k - 1].score) / temperature);
        above[k] = (Sums){(above[k - 1].all + weight[k - 1].all) * left,
                          (above[k - 1].positives + weight[k - 1].positives) * left};
    }
    for (int64_t k = count - 2; k >= 0; k--) {
        const double left = exp((items[k + 1].score - items[k].score) / temperature);
        below[k] = (Sums){(below[k + 1].all + weight[k + 1].all) * left,
                          (below[k + 1].positives + weight[k + 1].positives) * left};
    }
}

/* The loss, and the gradient at the items unless that is null. */
static double solve_smooth(const Ranking *ranking, double temperature, Item *items, double *slope)
{
    const int64_t positives = ranking->positives.count, count = positives + ranking->negatives.count;
    Sums *weight = (Sums *)(items + count), *above = weight + count, *below = above + count;
    merge(ranking, items);
    for (int64_t k = 0; k < count; k++)
        weight[k] = (Sums){1.0, items[k].positive};
    sum_both_ways(items, count, temperature, weight, above, below);
    double precision = 0.0, before = 0.0; /* positives before */
    for (int64_t k = 0; k < count; k++) {
        const Sums near = {above[k].all + below[k].all, above[k].positives + below[k].positives};
        weight[k] = (Sums){0.0, 0.0};
        slope[k] = 0.0;
        if (!items[k].positive)
            continue;
        const double rank = 1.0 + k + 0.5 * (below[k].all - above[k].all);
        const double own = 1.0 + before + 0.5 * (below[k].positives - above[k].positives);
        precision += own / rank;
        before += 1.0;
        weight[k] = (Sums){own / (rank * rank), -1.0 / rank}; /* what a rank among all is worth, and among positives */
        slope[k] = -weight[k].all * near.all - weight[k].positives * near.positives;
    }
    sum_both_ways(items, count, temperature, weight, above, below);
    for (int64_t k = 0; k < count; k++) {
        slope[k] += above[k].all + below[k].all;
        if (items[k].positive)
            slope[k] += above[k].positives + below[k].positives;
        slope[k] *= 0.5 / (temperature * positives);
    }
    return fmin(fmax(1.0 - precision / positives, 0.0), 1.0);
}

int write_smooth(const Batch *batch, const Objective *objective, const Output *output, int64_t line, Ranking *ranking)
{
    const int64_t count = (int64_t)ranking->positives.count + ranking->negatives.count;
    const int takes = takes_part(ranking);
    double loss = takes ? NAN : 0.0, *slope = NULL;
    Item *items = NULL;
    if (takes && is_finite(ranking->positives) && is_finite(ranking->negatives)) {
        items = malloc((size_t)count * (sizeof *items + 3 * sizeof(Sums) + sizeof *slope));
        if (!items)
            return NO_MEMORY;
        slope = (double *)((Sums *)(items + count) + 3 * count);
        loss = solve_smooth(ranking, objective->epsilon, items, slope);
    }
    if (output->gradient) {
        const size_t size = batch->wide ? sizeof(double) : sizeof(float);
        void *gradient = (char *)output->gradient + size * (size_t)ranking->start;
        fill_constant(batch, ranking, items ? 0.0 : loss, gradient);
        for (int64_t k = 0; items && k < count; k++)
            put_gradient(gradient, batch->wide, items[k].item, slope[k]);
    }
    free(items);
    put_loss(output, line, loss, takes);
    return SOLVED;
}
