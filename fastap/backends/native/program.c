/* The dynamic program of the paper inside bands of columns:
 *
 *     h_i(a) = max over a' <= a of [h_{i-1}(a') + g_i(a')]
 *
 * Few cells are solved at once, with one bit a cell: whether h_i grows there. Many are halved first: the program run from
 * the first row down and from the last row up says where the middle row stands (Hirschberg, CACM 1975). That is twice
 * the cells of one run, and memory for two rows of h. Of equally good optima the least is found.
 */
#include "terms.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CELLS_AT_ONCE ((int64_t)1 << 26) /* 8 MiB of bits */
#define CHUNK 256

typedef struct {
    const Terms *terms;
    const int32_t *left, *right; /* of row `origin` and those after it */
    int32_t origin, first, last; /* rows */
    int32_t low, high;           /* columns that the neighbours leave */
} Frame;

static int32_t left_of(const Frame *frame, int32_t row)
{
    const int32_t left = frame->left[row - frame->origin];
    return left > frame->low ? left : frame->low;
}

static int32_t right_of(const Frame *frame, int32_t row)
{
    const int32_t right = frame->right[row - frame->origin];
    return right < frame->high ? right : frame->high;
}

/* total[k] = h[k] + g_i(from + k); h and total may be one array */
static void add_terms(const Terms *terms, int32_t row, int32_t from, int32_t count, const double *h, double *total)
{
    const double *sum = terms->sum + from;
    const double score = terms->p[row] - terms->centre, task = terms->task, i = row + 1.0;
    for (int32_t k = 0; k < count; k++) {
        double a = from + k;
        total[k] = h[k] + ((sum[k] - a * score) + task * cost_of(terms, i, from + k));
    }
}

/* h of row `row` from that of the row before, which reaches to column `*reached`; h[0] is column `frame->low`. */
static void advance(const Frame *frame, int32_t row, double *h, int32_t *reached, uint64_t *grows, int64_t bit)
{
    const int32_t left = left_of(frame, row), right = right_of(frame, row);
    double total[CHUNK], most = -INFINITY;
    h -= frame->low;
    for (int32_t a = *reached + 1; a <= right; a++)
        h[a] = h[*reached];
    *reached = right;
    for (int64_t from = left; from <= right; from += CHUNK) {
        int32_t count = right - from < CHUNK ? (int32_t)(right - from) + 1 : CHUNK;
        add_terms(frame->terms, row, (int32_t)from, count, h + from, total);
        for (int32_t k = 0; k < count; k++) {
            int grew = total[k] > most;
            most = grew ? total[k] : most;
            h[from + k] = most;
            if (grows) {
                grows[bit >> 6] |= (uint64_t)grew << (bit & 63);
                bit++;
            }
        }
    }
}

/* The same from below: the best of this row and of those after it, with every a >= this one. */
static void retreat(const Frame *frame, int32_t row, double *h, int32_t *reached)
{
    const int32_t left = left_of(frame, row), right = right_of(frame, row);
    double most = -INFINITY;
    h -= frame->low;
    for (int32_t a = left; a < *reached; a++)
        h[a] = h[*reached];
    *reached = left;
    add_terms(frame->terms, row, left, right - left + 1, h + left, h + left);
    for (int32_t a = right; a >= left; a--) {
        most = h[a] > most ? h[a] : most;
        h[a] = most;
    }
}

static int solve_at_once(const Frame *frame, int64_t cells, int32_t *a)
{
    const size_t width = (size_t)right_of(frame, frame->last) - frame->low + 1;
    double *h = calloc(width, sizeof *h);
    uint64_t *grows = calloc((size_t)(cells >> 6) + 1, sizeof *grows);
    int failed = !h || !grows;
    if (!failed) {
        int64_t bit = 0;
        int32_t reached = right_of(frame, frame->first);
        for (int32_t row = frame->first; row <= frame->last; row++) {
            advance(frame, row, h, &reached, grows, bit);
            bit += right_of(frame, row) - left_of(frame, row) + 1;
        }
        int32_t at = right_of(frame, frame->last);
        for (int32_t row = frame->last; row >= frame->first; row--) {
            int32_t left = left_of(frame, row), right = right_of(frame, row);
            bit -= right - left + 1;
            at = at < right ? at : right;
            /* Where nothing grows (NaN) the first column stands in. */
            while (at > left && !(grows[(bit + at - left) >> 6] >> ((bit + at - left) & 63) & 1))
                at--;
            a[row] = at;
        }
    }
    free(h);
    free(grows);
    return failed ? -1 : 0;
}

/* Where the middle row stands in the least optimum, or -1 where memory ran out. */
static int32_t solve_middle(const Frame *frame, int32_t middle)
{
    const size_t width = (size_t)right_of(frame, frame->last) - frame->low + 1;
    double *above = calloc(2 * width, sizeof *above), *below = above + width;
    if (!above)
        return -1;
    int32_t reached = right_of(frame, frame->first);
    for (int32_t row = frame->first; row <= middle; row++)
        advance(frame, row, above, &reached, NULL, 0);
    reached = left_of(frame, frame->last);
    for (int32_t row = frame->last; row > middle; row--)
        retreat(frame, row, below, &reached);
    /* Of equal sums the first: there the middle row itself stands, not one before it that was better. */
    int32_t best = left_of(frame, middle);
    double most = -INFINITY;
    for (int32_t a = best; a <= right_of(frame, middle); a++) {
        double after = middle == frame->last ? 0.0 : below[(a > reached ? a : reached) - frame->low];
        double total = above[a - frame->low] + after;
        if (total > most) {
            most = total;
            best = a;
        }
    }
    free(above);
    return best;
}

static int solve_frame(Frame frame, int32_t *a)
{
    int64_t cells = 0;
    for (int32_t row = frame.first; row <= frame.last; row++)
        cells += right_of(&frame, row) - left_of(&frame, row) + 1;
    if (cells <= CELLS_AT_ONCE)
        return cells ? solve_at_once(&frame, cells, a) : 0;
    int32_t middle = frame.first + (frame.last - frame.first) / 2;
    if ((a[middle] = solve_middle(&frame, middle)) < 0)
        return -1;
    Frame before = frame, after = frame;
    before.last = middle - 1;
    before.high = a[middle];
    after.first = middle + 1;
    after.low = a[middle];
    return solve_frame(before, a) || solve_frame(after, a) ? -1 : 0;
}

int solve_rows(const Terms *terms, int32_t first, int32_t last, const int32_t *left, const int32_t *right, int32_t *a)
{
    return solve_frame((Frame){terms, left, right, first, first, last, left[0], right[last - first]}, a);
}

/* The dynamic program over every cell: it asks nothing of the terms, nor of their sign. */
int full_program(const Terms *terms, int32_t *a, Watch *watch)
{
    const size_t rows = (size_t)terms->rows;
    int32_t *bounds = malloc(2 * rows * sizeof *bounds);
    if (!bounds)
        return -1;
    for (size_t row = 0; row < rows; row++) {
        bounds[row] = 0;
        bounds[rows + row] = terms->negatives.count;
    }
    int failed = solve_rows(terms, 0, terms->rows - 1, bounds, bounds + rows, a);
    free(bounds);
    lap(watch, STAGE_REPAIR);
    return failed;
}
