/* The sort of one kind of record. No guard: sort.c includes this once a kind. */

static void NAME(insert)(RECORD *records, int64_t count)
{
    for (int64_t next = 1; next < count; next++) {
        RECORD record = records[next];
        int64_t place = next;
        for (; place > 0 && KEY(records[place - 1]) > KEY(record); place--)
            records[place] = records[place - 1];
        records[place] = record;
    }
}

static void NAME(count_digits)(void *work, int part, int parts)
{
    const Pass *pass = work;
    const RECORD *records = pass->records;
    uint32_t *places = pass->places[part];
    const int64_t end = part_start(pass->count, part + 1, parts);
    memset(places, 0, sizeof *places * (size_t)pass->values);
    for (int64_t place = part_start(pass->count, part, parts); place < end; place++)
        places[KEY(records[place]) >> pass->shift & (pass->values - 1)]++;
}

static void NAME(move)(void *work, int part, int parts)
{
    const Pass *pass = work;
    const RECORD *records = pass->records;
    RECORD *spare = pass->spare;
    uint32_t *places = pass->places[part];
    const int64_t end = part_start(pass->count, part + 1, parts);
    for (int64_t place = part_start(pass->count, part, parts); place < end; place++) {
        RECORD record = records[place];
        spare[places[KEY(record) >> pass->shift & (pass->values - 1)]++] = record;
    }
}

/* Turn the counts of all parts into places; whether one value has them all. */
static int NAME(place_digits)(Pass *pass, int parts)
{
    uint32_t before = 0;
    int all_the_same = 0;
    in_parts(pass->threads, parts, NAME(count_digits), pass);
    for (int value = 0; value < pass->values; value++) {
        uint32_t start = before;
        for (int part = 0; part < parts; part++) {
            uint32_t here = pass->places[part][value];
            pass->places[part][value] = before;
            before += here;
        }
        all_the_same |= before - start == pass->count;
    }
    return all_the_same;
}

/* By the lowest bits of the keys; whichever of the two arrays the sorted records end up in. */
static RECORD *NAME(sort_low)(RECORD *records, RECORD *spare, int64_t count, int bits, int threads)
{
    if (count <= FEW) {
        NAME(insert)(records, count);
        return records;
    }
    const int digit = count < MANY ? 8 : 11;
    uint32_t one[1][MOST_VALUES];
    int parts = parts_for(count, threads);
    Pass pass = {records, spare, count, 0, 1 << digit, threads, places_for(&parts, one)};
    for (; pass.shift < bits; pass.shift += digit) {
        if (NAME(place_digits)(&pass, parts))
            continue;
        in_parts(threads, parts, NAME(move), &pass);
        void *sorted = pass.spare;
        pass.spare = pass.records;
        pass.records = sorted;
    }
    if (pass.places != one)
        free(pass.places);
    return pass.records;
}

/* Records that share their highest digit lie together: sort each such bucket by what is left, in the cache. */
static void NAME(sort_buckets)(void *work, int part, int parts)
{
    const Pass *pass = work;
    RECORD *records = pass->records, *spare = pass->spare;
    /* Moving has left the ends of the buckets in the places of the last part. A part has those that begin in it. */
    const uint32_t *ends = pass->places[parts - 1];
    const int64_t from = part_start(pass->count, part, parts), to = part_start(pass->count, part + 1, parts);
    int64_t start = 0;
    for (int value = 0; value < pass->values; start = ends[value++]) {
        const int64_t count = ends[value] - start;
        if (start < from || start >= to || count < 2)
            continue;
        RECORD *sorted = NAME(sort_low)(records + start, spare + start, count, pass->shift, 1);
        if (sorted != records + start)
            memcpy(records + start, sorted, sizeof *sorted * (size_t)count);
    }
}

RECORD *NAME(sort)(RECORD *records, RECORD *spare, int64_t count, int threads)
{
    if (count < LARGE)
        return NAME(sort_low)(records, spare, count, KEY_BITS, threads);
    uint32_t one[1][MOST_VALUES];
    int parts = parts_for(count, threads);
    Pass pass = {records, spare, count, KEY_BITS - 11, MOST_VALUES, threads, places_for(&parts, one)};
    const int all_the_same = NAME(place_digits)(&pass, parts);
    if (!all_the_same) {
        in_parts(threads, parts, NAME(move), &pass);
        pass.records = spare;
        pass.spare = records;
        in_parts(threads, parts, NAME(sort_buckets), &pass);
    }
    if (pass.places != one)
        free(pass.places);
    return all_the_same ? NAME(sort_low)(records, spare, count, pass.shift, threads) : spare;
}
