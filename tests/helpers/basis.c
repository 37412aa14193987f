/* basis [--bits 32|16|8|4] [--device cpu|cuda] [--tangents 32|16|8] [--rank R] [--least K] {MODEL_DIR IN.safetensors OUT.safetensors}...
 *
 * Where a word's gradients lie (zo/basis.h), for a case of three arguments each. Inputs: `input_ids` I32 [captions,
 * length], in which ids from `first_id` I32 [1, 1] on are the word's, and `embedding` F32 [vectors, width]. Outputs:
 * JtJ's eigenvalues `values` F64 [1, dim] and eigenvectors `vectors` F64 [dim, dim], `basis` F32 [rank, dim] for zo.rank
 * R and zo.n K, its share of the trace `held` F64 [1, 1], and the token table's `root` F32 [width, width].
 */
#include "zo/basis.h"

#include "base/pool.h"
#include "device/kinds.h"
#include "files/safetensors_write.h"
#include "forward.h"
#include "helper.h"

struct options {
    const char *device;
    int bits, tangents;
    int64_t rank, least;
};

/* One case, on its model. */
struct trial {
    const struct options *options;
    struct config config;
    struct dataset set;
    struct text_encoder text;
    struct unet unet;
    float *embedding;
    const char *out;
    struct training_parts parts;
};

static struct error write_all(const struct trial *t, const double *values, const struct basis *text,
                              const struct basis *table)
{
    int64_t dim = text->dim;
    const struct entry entries[] = {
        helper_entry("values", F64, 1, dim, values), helper_entry("vectors", F64, dim, dim, values + dim),
        helper_entry("basis", F32, text->rank, dim, text->rows), helper_entry("held", F64, 1, 1, &text->held),
        helper_entry("root", F32, table->rank, table->dim, table->rows)};
    return comm_rank(t->parts.comm) == 0 ? safetensors_write(t->out, entries, 5, NULL, 0) : ok();
}

static struct error find_all(struct trial *t, struct text_basis *b, double *values, int64_t dim)
{
    struct basis text = {0}, table = {0};
    struct error e = text_basis_spectrum(b, t->embedding, values, values + dim);
    if (e.code == ERROR_NONE)
        e = text_basis_find(b, t->embedding, t->options->least, t->options->rank, &text);
    if (e.code == ERROR_NONE)
        e = basis_table(&table, &t->parts);
    if (e.code == ERROR_NONE)
        e = write_all(t, values, &text, &table);
    basis_free(&text);
    basis_free(&table);
    return e;
}

static struct error find(struct trial *t)
{
    struct text_basis b;
    int64_t dim = t->config.token.vectors * t->text.config.width;
    TRY(text_encoder_add_ids(t->parts.device, &t->text, t->set.ids, t->set.captions.count * t->set.length));
    TRY(text_basis_new(&b, &t->parts, 1 << 20));
    double *values = memory_alloc((dim + 1) * dim, sizeof *values);
    struct error e = values ? find_all(t, &b, values, dim) : error_memory("eigenvectors");
    memory_free(values);
    text_basis_free(&b);
    return e;
}

static void read_inputs(struct trial *t, const struct safetensors *in)
{
    int64_t rows, columns;
    int32_t *first = helper_rows(in, "first_id", I32, &rows, &columns);
    t->parts.first_id = *first;
    memory_free(first);
    t->embedding = helper_rows(in, "embedding", F32, &t->config.token.vectors, &columns);
    t->set.ids = helper_rows(in, "input_ids", I32, &t->set.captions.count, &t->set.length);
}

static struct error run_case(const struct options *o, struct device *device, struct comm *comm, char **files)
{
    struct safetensors in;
    struct trial t = {.options = o, .out = files[2]};
    TRY(safetensors_open(&in, files[1]));
    t.parts = (struct training_parts){
        .config = &t.config, .comm = comm, .device = device, .dataset = &t.set, .text = &t.text, .unet = &t.unet};
    read_inputs(&t, &in);
    safetensors_close(&in);
    struct error e = text_encoder_load(&t.text, device, files[0], o->bits, plain_store);
    if (e.code == ERROR_NONE) {
        e = unet_load(&t.unet, device, files[0], o->bits, plain_store);
        if (e.code == ERROR_NONE) {
            e = find(&t);
            unet_free(&t.unet);
        }
        text_encoder_free(&t.text);
    }
    memory_free(t.embedding);
    memory_free(t.set.ids);
    return e;
}

static struct error run(int argc, char **argv, struct comm *comm)
{
    struct options o = {.device = "cpu", .bits = 32, .tangents = 32, .least = 1};
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--device") == 0)
            o.device = argv[++i];
        else if (strcmp(argv[i], "--bits") == 0)
            o.bits = atoi(argv[++i]);
        else if (strcmp(argv[i], "--tangents") == 0)
            o.tangents = atoi(argv[++i]);
        else if (strcmp(argv[i], "--rank") == 0)
            o.rank = atoi(argv[++i]);
        else
            o.least = atoi(argv[++i]);
    }
    struct device *device;
    TRY(device_open(&device, device_kinds(), o.device, 0, pool_default_threads(comm_local_size(comm))));
    device_set_tangents(device, o.tangents);
    struct error e = ok();
    for (; i + 2 < argc && e.code == ERROR_NONE; i += 3)
        e = run_case(&o, device, comm, argv + i);
    device_close(device);
    return e;
}

int main(int argc, char **argv)
{
    return helper_on_ranks("basis", argc, argv, run);
}
