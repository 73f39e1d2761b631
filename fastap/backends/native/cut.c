/* Where intervals are cut. */
#include "coarse.h"

#include <stdlib.h>

#define AT_FIRST 16 /* intervals a row */
#define PIECES 4
#define THRESHOLDS 8 /* tried; the last cuts everything */
#define BISECTIONS 8
/* The scale of distances begins at 1/64 of that to the far end, or at the near end if that is further. */
#define NEAR 64.0

/* Where rows share the candidate's column they most likely stay close to it: there they are cut finest. */
static int is_centred(const Search *search, int32_t row)
{
    return search->paid[row] != search->terms->p[search->first + row];
}

/* Into how many pieces an interval is cut: `pieces` at most; or, around the candidate, its column and what lies left
 * and right of it. */
static int pieces_of(const Search *search, int32_t row, const Interval *interval, double loose, int pieces)
{
    const int32_t left = interval->left, right = interval->right, at = search->candidate[row];
    const int64_t width = (int64_t)right - left + 1;
    if (width == 1 || !(interval->sum > loose))
        return 1;
    if (is_centred(search, row) && left <= at && at <= right)
        return 1 + (left < at) + (at < right);
    return width < pieces ? (int)width : pieces;
}

/* The last columns of the pieces: even, or even on the scale of log |a - at|. */
static void ends_of(const Search *search, int32_t row, const Interval *interval, int pieces, int32_t *ends)
{
    const int32_t left = interval->left, right = interval->right, at = search->candidate[row];
    const int rises = at < left;
    double near = rises ? (double)left - at : (double)at - right, far = rises ? (double)right - at : (double)at - left;
    near = fmax(near, far / NEAR);
    ends[pieces - 1] = right;
    for (int k = 1; k < pieces; k++) {
        const double share = (double)(rises ? k : pieces - k) / pieces;
        int64_t end;
        if (!is_centred(search, row))
            end = left + ((int64_t)right - left + 1) * k / pieces - 1;
        else if (left <= at && at <= right)
            end = k == 1 && left < at ? at - 1 : at;
        else
            end = rises ? at + (int64_t)(near * pow(far / near, share))
                        : at - (int64_t)(near * pow(far / near, share)) - 1;
        const int64_t least = k > 1 ? ends[k - 2] + 1 : left, most = right - (pieces - k);
        ends[k - 1] = (int32_t)(end < least ? least : end > most ? most : end);
    }
}

/* Cut at the same columns for all rows, evenly on the scale on which the task loss is even, log(i + a). */
int start(Search *search)
{
    const double i = search->first + 0.5 * search->rows + 1.0;
    const int64_t room = search->most / 2 / search->rows - 2; /* less the candidate's column and what it cuts off */
    const int pieces = room < 1 ? 1 : room < AT_FIRST ? (int)room : AT_FIRST;
    const int has_room = search->most / search->rows > 2;
    const int32_t most = last_of(search->terms, search->first + search->rows - 1);
    int32_t cut[AT_FIRST];
    for (int k = 1; k < pieces; k++)
        cut[k] = (int32_t)(i * pow(1.0 + most / i, k / (double)pieces) - i);
    if (!(search->intervals = malloc((size_t)search->rows * (pieces + 2 * has_room) * sizeof *search->intervals)))
        return FAILED;
    int64_t count = 0;
    for (int32_t row = 0; row < search->rows; row++) {
        search->from[row] = count;
        const int32_t last = last_of(search->terms, search->first + row);
        int32_t left = 0;
        for (int k = 1; left <= last; k++) {
            const int32_t right = k >= pieces || cut[k] > last ? last : cut[k];
            if (right < left)
                continue;
            const Interval whole = {left, right, 0.0};
            const int32_t at = search->candidate[row];
            const int has_candidate = left <= at && at <= right && is_centred(search, row);
            const int parts = has_room && has_candidate ? 1 + (left < at) + (at < right) : 1;
            int32_t ends[PIECES];
            ends_of(search, row, &whole, parts, ends);
            for (int part = 0; part < parts; part++, left = ends[part - 1] + 1)
                search->intervals[count++] = (Interval){left, ends[part], 0.0};
        }
    }
    search->from[search->rows] = count;
    return FINER;
}

static int64_t count_pieces(const Search *search, double loose, int pieces)
{
    int64_t count = 0;
    for (int32_t row = 0; row < search->rows; row++)
        for (int64_t each = search->from[row]; each < search->from[row + 1]; each++)
            count += pieces_of(search, row, &search->intervals[each], loose, pieces);
    return count;
}

/* The least looseness for whose intervals there is room. */
static double least_with_room(const Search *search, double loose, int pieces)
{
    double least = loose;
    while (count_pieces(search, least, pieces) > search->most && least < INFINITY) {
        loose = least;
        least = least > 0.0 ? 2.0 * least : fmax(search->rounding / search->rows, DBL_MIN);
    }
    for (int step = 0; step < BISECTIONS && loose < least && least < INFINITY; step++) {
        const double middle = 0.5 * (fmax(loose, 0.0) + least);
        if (count_pieces(search, middle, pieces) > search->most)
            loose = middle;
        else
            least = middle;
    }
    return least;
}

/* Cut what is looser than that, in four, or in two where there is little room. A pass over all intervals is not worth
 * it for few cuts: the threshold is lowered until there are half as many again. */
int cut(Search *search, double loose)
{
    const int64_t kept = search->from[search->rows];
    int most_pieces = PIECES;
    int64_t count = count_pieces(search, loose, most_pieces);
    for (int step = 1; step <= THRESHOLDS && count <= kept + kept / 2; step++)
        count = count_pieces(search, loose = step < THRESHOLDS ? loose / 16.0 : -INFINITY, most_pieces);
    if (count == kept)
        return SINGLE;
    if (count > search->most) {
        most_pieces = 2;
        loose = least_with_room(search, loose, most_pieces);
        count = count_pieces(search, loose, most_pieces);
    }
    if (count == kept)
        return FULL;
    Interval *finer = realloc(search->intervals, (size_t)count * sizeof *finer);
    if (!finer)
        return FAILED;
    search->intervals = finer;
    int64_t each = kept - 1;
    for (int32_t row = search->rows - 1; row >= 0; row--) { /* from the end: nothing is written over */
        search->from[row + 1] = count;
        for (; each >= search->from[row]; each--) {
            const Interval whole = finer[each];
            const int pieces = pieces_of(search, row, &whole, loose, most_pieces);
            int32_t ends[PIECES];
            ends_of(search, row, &whole, pieces, ends);
            for (int k = pieces - 1; k >= 0; k--)
                finer[--count] = (Interval){k ? ends[k - 1] + 1 : whole.left, ends[k], 0.0};
        }
    }
    return FINER;
}
