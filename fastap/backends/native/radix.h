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

RECORD *NAME(sort)(RECORD *records, RECORD *spare, int64_t count, int parts)
{
    if (count <= FEW) {
        NAME(insert)(records, count);
        return records;
    }
    uint32_t places[MOST_PARTS][MOST_VALUES]; /* pages of the stack that no part needs are never touched */
    const int bits = count < MANY ? 8 : 11;
    Pass pass = {records, spare, count, 0, 1 << bits, places};
    for (; pass.shift < KEY_BITS; pass.shift += bits) {
        in_parts(parts, NAME(count_digits), &pass);
        uint32_t before = 0;
        int all_the_same = 0;
        for (int value = 0; value < pass.values; value++) {
            uint32_t start = before;
            for (int part = 0; part < parts; part++) {
                uint32_t here = places[part][value];
                places[part][value] = before;
                before += here;
            }
            all_the_same |= before - start == count;
        }
        if (all_the_same)
            continue;
        in_parts(parts, NAME(move), &pass);
        void *sorted = pass.spare;
        pass.spare = pass.records;
        pass.records = sorted;
    }
    return pass.records;
}
