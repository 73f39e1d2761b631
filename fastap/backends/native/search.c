/* Each row alone: bisection where its term is concave, branch and bound where it is not. */
#include "terms.h"

#include <math.h>

/* Rows choose like their neighbours; at these intervals a row starts from nothing, so that parts start alike. */
#define ROWS_A_CHAIN 4096

/* Intervals of so few places are looked through: that is cheaper than a bound. */
#define SHORT 6
/* Products below may have lost their digits to underflow. */
#define SMALL 1e-280

/* A cut leaves one interval behind and goes on with at most 7/8 of the places, of which there are less than 2**31. */
#define DEPTH 192

/* The least a in [least, N] of largest g_i(a), for marginals that fall with a. Neighbouring rows choose alike, so the
 * range is found by steps that double from the neighbour's choice: few and near, whatever N. */
static int32_t concave_argmax(const Terms *terms, double score, double i, int32_t least, int32_t hint)
{
    int64_t rises = hint < least ? least : hint; /* up to here g rises, or it is `least` */
    int64_t falls, step = 1;
    if (rises > least && !(marginal_of(terms, score, i, (int32_t)rises) > 0.0)) {
        do {
            falls = rises;
            rises = falls - step < least ? least : falls - step;
            step *= 2;
        } while (rises > least && !(marginal_of(terms, score, i, (int32_t)rises) > 0.0));
    } else {
        for (;;) {
            falls = rises + step > terms->negatives.count ? (int64_t)terms->negatives.count + 1 : rises + step;
            if (falls > terms->negatives.count || !(marginal_of(terms, score, i, (int32_t)falls) > 0.0))
                break;
            rises = falls;
            step *= 2;
        }
    }
    while (falls - rises > 1) {
        int64_t middle = (rises + falls) >> 1;
        if (marginal_of(terms, score, i, (int32_t)middle) > 0.0)
            rises = middle;
        else
            falls = middle;
    }
    return (int32_t)rises;
}

/* g = A + B with A concave and B convex, but for a jump: A(a) = S[a] - a p and B(a) = task c_i(a) for task < 0; for
 * task > 0 all is concave, and B = 0. */
typedef struct {
    int32_t a;
    double concave, convex;
} End;

typedef struct {
    End left, right;
} Interval;

static inline End end_at(const Terms *terms, double score, double i, int32_t a)
{
    const double standard = standard_of(terms, score, a), task = terms->task * cost_of(terms, i, a);
    return terms->task > 0.0 ? (End){a, standard + task, 0.0} : (End){a, standard, task};
}

static inline double value_of(End end) { return end.concave + end.convex; }

/* A lies under its tangents at both ends, B under its chord, so inside the interval g lies under its larger end or under
 * this bound where the tangents cross: g(left) + cross / bend * (above_chord / run). */
typedef struct {
    double run, bend, cross, above_chord; /* bend 0: A is linear, and the tangents meet at the ends */
} Bound;

static inline Bound bound_inside(const Terms *terms, double score, double i, Interval interval)
{
    End left = interval.left, right = interval.right;
    double run = (double)right.a - left.a;
    double slope_left = score_at(terms->negatives, left.a) - score; /* of the negative after left.a */
    double slope_right = score_at(terms->negatives, right.a - 1) - score;
    if (terms->task > 0.0) {
        slope_left += terms->task * rise_of_cost(terms, i, left.a + 1);
        slope_right += terms->task * rise_of_cost(terms, i, right.a);
    }
    double bend = slope_left - slope_right;
    double cross = right.concave - left.concave - run * slope_right; /* times bend, from the left end */
    return (Bound){run, bend, fmin(fmax(cross, 0.0), run * bend), slope_left * run + (right.convex - left.convex)};
}

/* Bound - level, times something positive where that spares the two divisions, which are a quarter of the search. */
static inline double excess_inside(const Terms *terms, double score, double i, Interval interval, double level)
{
    End left = interval.left, right = interval.right;
    Bound bound = bound_inside(terms, score, i, interval);
    if (!(bound.bend > 0.0))
        return fmax(value_of(left), value_of(right)) - level;
    const double excess = (value_of(left) - level) * bound.run * bound.bend + bound.cross * bound.above_chord;
    if (isfinite(excess) && fabs(excess) > SMALL)
        return excess;
    return value_of(left) - level + bound.cross / bound.bend * (bound.above_chord / bound.run);
}

static double most_without_jump(const Terms *terms, double score, double i, int32_t left, int32_t right)
{
    Interval interval = {end_at(terms, score, i, left), end_at(terms, score, i, right)};
    double most = fmax(value_of(interval.left), value_of(interval.right));
    if (right - left < 2)
        return most;
    Bound bound = bound_inside(terms, score, i, interval);
    if (!(bound.bend > 0.0))
        return most;
    return fmax(most, value_of(interval.left) + bound.cross / bound.bend * (bound.above_chord / bound.run));
}

/* The most that g reaches in [left, right], or a little more. */
double most_inside(const Terms *terms, double score, double i, int32_t left, int32_t right)
{
    const int32_t before = before_jump(terms, i, right);
    if (before < left)
        return most_without_jump(terms, score, i, left, right);
    return fmax(most_without_jump(terms, score, i, left, before), most_without_jump(terms, score, i, before + 1, right));
}

/* Where to cut. Beside the best place so far the bound is never tight, as g hardly falls there: a small piece is cut off
 * with it, and the rest mostly goes at once (of 1 to 1/8, 8 is best: 23 cuts a row instead of 37 at P = N = 500,000).
 * Elsewhere the middle on the scale on which B is even, log(i + a). */
static inline int32_t cut_of(Interval interval, double i, int32_t best)
{
    const int32_t piece = 1 + (interval.right.a - interval.left.a) / 8;
    if (interval.left.a == best)
        return interval.left.a + piece;
    if (interval.right.a == best)
        return interval.right.a - piece;
    double middle = sqrt((i + interval.left.a) * (i + interval.right.a)) - i;
    int32_t a = (int32_t)middle;
    if (a <= interval.left.a)
        a = interval.left.a + 1;
    return a >= interval.right.a ? interval.right.a - 1 : a;
}

/* Of equal values the leftmost. */
static inline Choice better(Choice best, int32_t a, double value)
{
    return value > best.value || (value == best.value && a < best.a) ? (Choice){a, value} : best;
}

/* The a in [0, last] of largest g_i(a), and that value; of several the least, as far as rounding tells them apart. */
Choice argmax(const Terms *terms, double score, double i, int32_t last, int32_t hint)
{
    Interval stack[DEPTH];
    int depth = 0;
    const int32_t before = before_jump(terms, i, last);
    const int32_t stops[] = {hint < before ? hint : before, before, before + 1, hint, last};
    End left = end_at(terms, score, i, 0);
    Choice best = {0, value_of(left)};
    for (int each = 0; each < 5; each++) {
        if (stops[each] <= left.a || stops[each] > last)
            continue;
        End right = end_at(terms, score, i, stops[each]);
        best = better(best, right.a, value_of(right));
        if (left.a != before)
            stack[depth++] = (Interval){left, right};
        left = right;
    }
    while (depth) {
        Interval interval = stack[--depth];
        if (interval.right.a - interval.left.a < 2)
            continue;
        double excess = excess_inside(terms, score, i, interval, best.value);
        if (excess < 0.0 || (excess == 0.0 && interval.left.a >= best.a))
            continue;
        if (interval.right.a - interval.left.a <= SHORT) {
            for (int32_t a = interval.left.a + 1; a < interval.right.a; a++)
                best = better(best, a, term_of(terms, score, i, a));
            continue;
        }
        End middle = end_at(terms, score, i, cut_of(interval, i, best.a));
        best = better(best, middle.a, value_of(middle));
        stack[depth++] = (Interval){interval.left, middle};
        stack[depth++] = (Interval){middle, interval.right};
    }
    return best;
}

typedef struct {
    const Terms *terms;
    int32_t *a;
} Search;

static void search_part(void *work, int part, int parts)
{
    const Search *search = work;
    const Terms *terms = search->terms;
    int32_t *a = search->a;
    const int64_t chains = ((int64_t)terms->rows + ROWS_A_CHAIN - 1) / ROWS_A_CHAIN;
    const int64_t from = part_start(chains, part, parts) * ROWS_A_CHAIN;
    int64_t to = part_start(chains, part + 1, parts) * ROWS_A_CHAIN;
    to = to < terms->rows ? to : terms->rows;
    for (int64_t row = from; row < to; row++) {
        const double score = terms->p[row], i = (double)row + 1.0;
        const int starts = row % ROWS_A_CHAIN == 0;
        if (terms->task > 0.0 && isinf(terms->cutoff))
            a[row] = concave_argmax(terms, score, i, terms->lo[row], starts ? 0 : a[row - 1]);
        else
            a[row] = argmax(terms, score, i, last_of(terms, (int32_t)row), starts ? terms->lo[row] : a[row - 1]).a;
    }
}

/* The best a of every row alone: in [lo, N] where its terms are concave, else in [0, last_of]. */
void search_rows(const Terms *terms, int32_t *a)
{
    Search search = {terms, a};
    in_parts(terms->threads, parts_for((int64_t)terms->rows * STEPS_A_ROW, terms->threads), search_part, &search);
}
