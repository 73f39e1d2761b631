/* Arithmetic of PTX that C has no operator for. opcodes.py writes calls of these. */

static int32_t fuzz; /* moves results of approximate instructions, where it is not 0 */

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

/* Two float32 of a 64-bit register. */
static uint64_t add_pairs(uint64_t a, uint64_t b)
{
    const float low = float_of((uint32_t)a) + float_of((uint32_t)b);
    const float high = float_of((uint32_t)(a >> 32)) + float_of((uint32_t)(b >> 32));
    return (uint64_t)bits_of(high) << 32 | bits_of(low);
}

static float flush(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}

/* What the hardware may give instead, a unit in the last place away, by the bits of the result. */
static float approximate(float x)
{
    if (!fuzz || !(fabsf(x) > 0x1p-120f && fabsf(x) < 0x1p120f))
        return x;
    const uint32_t bits = bits_of(x);
    return float_of(bits + (int)((bits * 2654435761u + (uint32_t)fuzz * 40503u) >> 16) % 3 - 1);
}

static double half(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double x = exponent == 31 ? (fraction ? NAN : INFINITY)
               : exponent     ? ldexp(1024 + fraction, exponent - 25)
                              : ldexp(fraction, -24);
    return bits >> 15 ? -x : x;
}

static uint16_t half_bits(double x)
{
    const _Float16 rounded = (_Float16)x;
    uint16_t bits;
    memcpy(&bits, &rounded, 2);
    return bits;
}

static float brain(uint16_t half)
{
    return float_of((uint32_t)half << 16);
}

static uint16_t brain_bits(float x)
{
    const uint32_t bits = bits_of(x);
    return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static uint32_t low_bits(uint32_t count)
{
    return count > 31 ? FULL : (1u << count) - 1;
}

static uint32_t extract(uint32_t a, uint32_t first, uint32_t count)
{
    return first > 31 ? 0 : a >> first & low_bits(count);
}

static int32_t extract_signed(uint32_t a, uint32_t first, uint32_t count)
{
    if (!count)
        return 0;
    const uint32_t top = first + count - 1 > 31 ? 31 : first + count - 1;
    const uint32_t kept = first > 31 ? 0 : FULL >> first & low_bits(count);
    const uint32_t z = extract(a, first, count);
    return a >> top & 1 ? (int32_t)(z | ~kept) : (int32_t)z;
}

/* Four bytes of eight; with bit 3 of a choice, the byte's sign in all its bits. */
static uint32_t permute(uint32_t a, uint32_t b, uint32_t choices)
{
    uint64_t all = (uint64_t)b << 32 | a;
    uint32_t z = 0;
    for (int k = 0; k < 4; k++) {
        uint32_t choice = choices >> 4 * k & 15, byte = all >> 8 * (choice & 7) & 255;
        z |= (choice & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * k;
    }
    return z;
}

static uint32_t reversed(uint32_t a)
{
    uint32_t z = 0;
    for (int k = 0; k < 32; k++)
        z |= (a >> k & 1) << (31 - k);
    return z;
}

/* Any function of three bits, by its table. */
static uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table)
{
    uint32_t z = 0;
    for (int k = 0; k < 8; k++)
        if (table >> k & 1)
            z |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    return z;
}
