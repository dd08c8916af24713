/* JSON: the envelope's scan in cuts, the strict check, and look-ups with and without the index of tokens, all against
 * each other and against jansson (json_oracle.h). Input: the seed of the cuts, the text. */
#include "fuzz.h"
#include "json_oracle.h"

/* ---- the scan: what it finds, and where ---- */
typedef struct scanned {
    fuzz_text found;
    gw__json_scan scan;
    size_t d_begin, d_end;
    int ended, broken;
} scanned;

static void scan_in_cuts(const char *text, size_t len, uint64_t seed, scanned *out)
{
    size_t at = 0, used;
    memset(out, 0, sizeof *out);
    gw__json_scan_begin(&out->scan);
    while (at < len && !out->broken) {
        size_t cut = fuzz_cut(&seed, len - at), done = 0;
        char *part = fuzz_copy(text + at, cut);
        while (done < cut) {
            gw__json_found found = gw__json_scan_next(&out->scan, (uint8_t *)part + done,
                                                      cut - done, &used);
            FUZZ_CHECK(used <= cut - done);
            done += used;
            if (found == GW__JSON_NEED_MORE) {
                FUZZ_CHECK(done == cut);
                break;
            }
            fuzz_add_u64(&out->found, found);
            if (found == GW__JSON_BROKEN) {
                fuzz_add_text(&out->found, out->scan.why);
                out->broken = 1;
                break;
            }
            fuzz_add_u64(&out->found, at + done);
            if (found == GW__JSON_D_BEGIN) out->d_begin = at + done;
            if (found == GW__JSON_D_END) out->d_end = at + done;
            if (found == GW__JSON_END) out->ended = 1;
        }
        free(part);
        at += cut;
    }
    FUZZ_CHECK(out->scan.name[GW__NAME_MAX - 1] == 0);
    FUZZ_CHECK(!out->ended || out->scan.name_len < GW__NAME_MAX);
    if (out->ended || out->broken) {
        fuzz_add_u64(&out->found, out->scan.has_op ? out->scan.op : 0);
        fuzz_add_u64(&out->found, out->scan.has_seq ? out->scan.seq : 0);
        fuzz_add_u64(&out->found, out->scan.has_op << 3 | out->scan.has_seq << 2 |
                                  out->scan.has_name << 1 | out->scan.has_d);
    }
    if (out->ended && out->scan.has_name) fuzz_add(&out->found, out->scan.name, out->scan.name_len);
}

/* The way in one go must lead to where the step by step one leads. */
static void scan_usual(const char *text, size_t len, const scanned *said)
{
    gw__json_scan scan;
    gw__json_found found = GW__JSON_NEED_MORE;
    size_t at = 0, used, d_end = 0;
    int ended = 0;
    gw__json_scan_begin(&scan);
    if (!gw__json_scan_usual(&scan, (const uint8_t *)text, len, &at)) {
        FUZZ_CHECK(scan.place == GW__JSON_AT_OPENING && !scan.has_op && !scan.has_seq);
        return;
    }
    FUZZ_CHECK(at < len && at <= said->d_begin && text[at] == '{');
    for (; at < len && found != GW__JSON_BROKEN; at += used) {
        found = gw__json_scan_next(&scan, (const uint8_t *)text + at, len - at, &used);
        if (found == GW__JSON_D_BEGIN) return;          /* a second d: nothing is promised of the first */
        if (found == GW__JSON_D_END) d_end = at + used;
        if (found == GW__JSON_END) ended = 1;
    }
    FUZZ_CHECK(d_end == said->d_end && ended == said->ended);
    FUZZ_CHECK((found == GW__JSON_BROKEN) == said->broken);
    FUZZ_CHECK(scan.has_op == said->scan.has_op && scan.op == said->scan.op);
    FUZZ_CHECK(scan.has_seq == said->scan.has_seq && scan.seq == said->scan.seq);
    FUZZ_CHECK(scan.has_name == said->scan.has_name && strcmp(scan.name, said->scan.name) == 0);
    FUZZ_CHECK(scan.place == said->scan.place && scan.has_d == said->scan.has_d);
}

/* ---- look-ups: the walker, and the index from its first step on ---- */
static void force_index(gw__json_index *index, gw__mem *mem, const char *text, size_t len,
                        size_t max)
{
    gw__json_index_init(index, mem, max);
    gw__json_index_point(index, text, len);
    index->walked_bytes = (uint64_t)len * 8 + 8;
}

static gw_json own(const char *text, size_t len, const void *index)
{
    gw_json v;
    v.ptr = text;
    v.len = len;
    v.index = index;
    return v;
}

static void same_slice(const gw_json *one, const gw_json *two)
{
    FUZZ_CHECK(one->ptr == two->ptr && one->len == two->len);
}

/* One path, read by every reader, both ways. */
static void read_both(const gw_json *walked, const gw_json *indexed, const char *path)
{
    gw_json one, two;
    char text[64], other[64];
    size_t len, plain_len;
    double number, again;
    const char *plain;
    int there = gw_get(walked, path, &one);
    FUZZ_CHECK(gw_get(indexed, path, &two) == there && there == (one.ptr != NULL));
    same_slice(&one, &two);
    FUZZ_CHECK(gw_kind_of(walked, path) == gw_kind_of(indexed, path));
    FUZZ_CHECK(gw_u64(walked, path) == gw_u64(indexed, path));
    FUZZ_CHECK(gw_i64(walked, path) == gw_i64(indexed, path));
    FUZZ_CHECK(gw_true(walked, path) == gw_true(indexed, path));
    number = gw_f64(walked, path);
    again = gw_f64(indexed, path);
    FUZZ_CHECK(memcmp(&number, &again, sizeof number) == 0);
    len = gw_text(walked, path, text, sizeof text);
    FUZZ_CHECK(gw_text(indexed, path, other, sizeof other) == len);
    FUZZ_CHECK(memcmp(text, other, len < sizeof text ? len + 1 : strlen(text) + 1) == 0);
    FUZZ_CHECK(gw_text(walked, path, NULL, 0) == len);
    plain = gw_plain(walked, path, &plain_len);
    FUZZ_CHECK(plain == gw_plain(indexed, path, &len) && len == plain_len);
    gw_is(walked, path, text);
}

/* Broken text too: both ways must agree there as well. */
static void read_known_paths(const char *text, size_t len, uint32_t seed)
{
    static const char *const paths[] = {
        "", "a", "b", "0", "1", "a.b", "a.0", "0.a", "0.0", "d", "d.id", "op", "t", "id", "a.a.a",
        "1.1", "d.author.id", "s"
    };
    fuzz_memory memory;
    gw__mem mem;
    gw__json_index index;
    gw_json walked = own(text, len, NULL), indexed, picked[GW__COUNT(paths)], one, key, value;
    uint32_t i, steps = 0;
    memset(&memory, 0, sizeof memory);
    gw__mem_init(&mem, fuzz_alloc, &memory);
    force_index(&index, &mem, text, len, 64);
    indexed = own(text, len, &index);
    for (i = 0; i < GW__COUNT(paths); i++)
        if (i % 6 == seed % 6) read_both(&walked, &indexed, paths[i]);  /* all would take long */
    gw_pick(&walked, paths + 1, GW__COUNT(paths) - 1, picked);
    for (i = 1; i < GW__COUNT(paths); i++) {
        gw_get(&walked, paths[i], &one);
        same_slice(&picked[i - 1], &one);
    }
    gw_pick(&indexed, paths, GW__COUNT(paths), picked);
    for (i = 0; i < GW__COUNT(paths); i++) {
        gw_get(&walked, paths[i], &one);
        same_slice(&picked[i], &one);
    }
    memset(&key, 0, sizeof key);
    memset(&value, 0, sizeof value);
    while (gw_next(&walked, &key, &value)) FUZZ_CHECK(++steps <= len);
    FUZZ_CHECK(memory.peak_bytes <= 64 * sizeof(gw__jsmn_token) * 2);
    gw__json_index_free(&index);
    FUZZ_CHECK(memory.live_blocks == 0);
}

#ifdef FUZZ_ORACLE
static void same_string(const gw_json *v, const char *bytes, size_t len)
{
    char *text = (char *)malloc(len + 1), *quoted;
    size_t quoted_len;
    enum verdict verdict;
    json_t *again;
    FUZZ_CHECK(gw_kind_of(v, NULL) == GW_STRING);
    FUZZ_CHECK(gw_text(v, NULL, text, len + 1) == len && memcmp(text, bytes, len) == 0 &&
               text[len] == 0);
    if (!memchr(bytes, 0, len)) FUZZ_CHECK(gw_is(v, NULL, text));
    quoted_len = gw_quote(text, len, NULL, 0);
    quoted = (char *)malloc(quoted_len + 1);
    FUZZ_CHECK(gw_quote(text, len, quoted, quoted_len + 1) == quoted_len &&
               strlen(quoted) == quoted_len);
    again = oracle_load(quoted, quoted_len, 0, &verdict);
    FUZZ_CHECK(again && json_is_string(again) && json_string_length(again) == len);
    FUZZ_CHECK(memcmp(json_string_value(again), bytes, len) == 0);
    json_decref(again);
    free(quoted);
    free(text);
}

static void same_number(const gw_json *v, const json_t *tree)
{
    FUZZ_CHECK(gw_kind_of(v, NULL) == GW_NUMBER);
    if (json_is_integer(tree)) {
        int64_t value = (int64_t)json_integer_value(tree);
        FUZZ_CHECK(gw_i64(v, NULL) == value);
        FUZZ_CHECK(gw_u64(v, NULL) == (value < 0 ? 0 : (uint64_t)value));
        FUZZ_CHECK(gw_f64(v, NULL) <= (double)value && gw_f64(v, NULL) >= (double)value);
    } else {
        double value = json_real_value(tree), got = gw_f64(v, NULL);
        FUZZ_CHECK(got <= value && got >= value);
        FUZZ_CHECK(gw_u64(v, NULL) == 0 && gw_i64(v, NULL) == 0);
    }
}

static void same_value(const gw_json *v, const json_t *tree, uint32_t depth);

/* Members and elements in their order, and each by its own path, by both ways. */
static void same_members(const gw_json *v, const json_t *tree, uint32_t depth)
{
    gw_json key, value, found;
    void *member = json_is_object(tree) ? json_object_iter((json_t *)(uintptr_t)tree) : NULL;
    size_t count = 0, of = json_is_object(tree) ? json_object_size(tree) : json_array_size(tree);
    char place[24];
    memset(&key, 0, sizeof key);
    memset(&value, 0, sizeof value);
    while (gw_next(v, &key, &value)) {
        const char *name = place;
        const json_t *child;
        FUZZ_CHECK(count < of);
        if (member) {
            name = json_object_iter_key(member);
            child = json_object_iter_value(member);
            same_string(&key, name, strlen(name));
            member = json_object_iter_next((json_t *)(uintptr_t)tree, member);
        } else {
            FUZZ_CHECK(key.ptr == NULL);
            child = json_array_get(tree, count);
            snprintf(place, sizeof place, "%lu", (unsigned long)count);
        }
        if (count < 8 && depth < 6) {
            if (name[0] && !strchr(name, '.')) {
                FUZZ_CHECK(gw_get(v, name, &found));
                same_slice(&found, &value);
                FUZZ_CHECK(gw_pick(v, &name, 1, &found) == 1);
                same_slice(&found, &value);
            }
            same_value(&value, child, depth + 1);
        }
        count++;
    }
    FUZZ_CHECK(count == of);
}

static void same_value(const gw_json *v, const json_t *tree, uint32_t depth)
{
    switch (json_typeof(tree)) {
    case JSON_OBJECT:
        FUZZ_CHECK(gw_kind_of(v, NULL) == GW_OBJECT);
        same_members(v, tree, depth);
        break;
    case JSON_ARRAY:
        FUZZ_CHECK(gw_kind_of(v, NULL) == GW_ARRAY);
        same_members(v, tree, depth);
        break;
    case JSON_STRING: same_string(v, json_string_value(tree), json_string_length(tree)); break;
    case JSON_INTEGER: case JSON_REAL: same_number(v, tree); break;
    case JSON_TRUE: FUZZ_CHECK(gw_kind_of(v, NULL) == GW_TRUE && gw_true(v, NULL)); break;
    case JSON_FALSE: FUZZ_CHECK(gw_kind_of(v, NULL) == GW_FALSE); break;
    case JSON_NULL: FUZZ_CHECK(gw_kind_of(v, NULL) == GW_NULL); break;
    }
}

/* A field of the envelope: what must the scan say of it? 1: it has it, 0: it has not, -1: it breaks. */
static int expect_integer(const gw_json *root, const json_t *tree, const char *key)
{
    const json_t *field = json_object_get(tree, key);
    gw_json v;
    if (!field || json_is_null(field)) return 0;
    gw_get(root, key, &v);
    return json_is_integer(field) && v.ptr[0] != '-' ? 1 : -1;
}

static void same_envelope(const char *text, size_t len, const json_t *tree, const scanned *said)
{
    gw_json root = own(text, len, NULL), d;
    const gw__json_scan *scan = &said->scan;
    const json_t *name = json_object_get(tree, "t");
    int op = expect_integer(&root, tree, "op"), seq = expect_integer(&root, tree, "s");
    if (!json_is_object(tree) || op < 0 || seq < 0 ||
        (name && !json_is_null(name) && !json_is_string(name))) {
        FUZZ_CHECK(said->broken);
        return;
    }
    FUZZ_CHECK(said->ended && !said->broken);
    FUZZ_CHECK(scan->has_op == (uint32_t)op && scan->has_seq == (uint32_t)seq);
    if (op) FUZZ_CHECK(scan->op == (uint64_t)json_integer_value(json_object_get(tree, "op")));
    if (seq) FUZZ_CHECK(scan->seq == (uint64_t)json_integer_value(json_object_get(tree, "s")));
    FUZZ_CHECK(scan->has_name == (uint32_t)(name && json_is_string(name)));
    if (scan->has_name) {
        size_t full = json_string_length(name);
        FUZZ_CHECK(scan->name_len <= full);
        FUZZ_CHECK(memcmp(scan->name, json_string_value(name), scan->name_len) == 0);
        FUZZ_CHECK(scan->name_len == full || scan->name_len >= GW__NAME_MAX - 4);
        FUZZ_CHECK(gw__utf8_is(scan->name, scan->name_len));
    }
    FUZZ_CHECK(scan->has_d == (uint32_t)(json_object_get(tree, "d") != NULL));
    if (!scan->has_d) return;
    FUZZ_CHECK(gw_get(&root, "d", &d));
    FUZZ_CHECK(d.ptr == text + said->d_begin && d.len == said->d_end - said->d_begin);
}

static void compare_with_oracle(const char *text, size_t len, const scanned *said)
{
    enum verdict verdict;
    int ours = gw__json_is_valid(text, len);
    json_t *tree = oracle_load(text, len, JSON_REJECT_DUPLICATES, &verdict);
    if (verdict == VALID) FUZZ_CHECK(ours);
    if (verdict == INVALID) FUZZ_CHECK(!ours);
    if (tree) {
        fuzz_memory memory;
        gw__mem mem;
        gw__json_index index;
        gw_json walked = own(text, len, NULL), indexed;
        memset(&memory, 0, sizeof memory);
        gw__mem_init(&mem, fuzz_alloc, &memory);
        force_index(&index, &mem, text, len, GW_MAX_TOKENS);
        indexed = own(text, len, &index);
        same_value(&walked, tree, 0);
        same_value(&indexed, tree, 0);
        FUZZ_CHECK(index.state != GW__JSON_INDEX_UNUSABLE);
        gw__json_index_free(&index);
        FUZZ_CHECK(memory.live_blocks == 0);
        same_envelope(text, len, tree, said);
    }
    json_decref(tree);
}
#endif

static void fuzz_one(const uint8_t *bytes, size_t len)
{
    scanned whole, single, cuts;
    char *text;
    if (len < 2) return;
    text = fuzz_copy(bytes + 1, len - 1);
    len--;
    scan_in_cuts(text, len, FUZZ_WHOLE, &whole);
    scan_in_cuts(text, len, 0, &single);
    scan_in_cuts(text, len, bytes[0] + 1u, &cuts);
    FUZZ_CHECK(fuzz_same(&whole.found, &single.found) && fuzz_same(&whole.found, &cuts.found));
    scan_usual(text, len, &whole);
    read_known_paths(text, len, bytes[0]);
#ifdef FUZZ_ORACLE
    compare_with_oracle(text, len, &whole);
#endif
    fuzz_free(&whole.found);
    fuzz_free(&single.found);
    fuzz_free(&cuts.found);
    free(text);
}
