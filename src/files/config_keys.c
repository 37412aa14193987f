#include "files/config_keys.h"

#include <assert.h>
#include <string.h>

#include "base/lr_schedule.h"
#include "base/nearest.h"
#include "base/text.h"

static const char *const device_names[] = {"auto", "cpu", "cuda", NULL};
static const char *const activation_names[] = {"fp16", "bf16", NULL};
static const char *const property_names[] = {[PROPERTY_OBJECT] = "object", [PROPERTY_STYLE] = "style", NULL};
static const char *const derivative_names[] = {
    [DERIVATIVE_AUTO] = "auto", [DERIVATIVE_DIFFERENCE] = "difference", [DERIVATIVE_TANGENT] = "tangent", NULL};
static const char *const directions_names[] = {
    [DIRECTIONS_NORMAL] = "normal", [DIRECTIONS_TABLE] = "table", [DIRECTIONS_TEXT] = "text", NULL};
static const char *const method_names[] = {[METHOD_ADAM] = "adam", [METHOD_GAUSS_NEWTON] = "gauss_newton", NULL};
static const char *const per_names[] = {[DIRECTIONS_PER_STEP] = "step", [DIRECTIONS_PER_PICTURE] = "picture", NULL};
static const char *const order_names[] = {[TIMESTEPS_RANDOM] = "random", [TIMESTEPS_EVEN] = "even", NULL};
static const char *const fit_names[] = {[FIT_CROP] = "crop", [FIT_SQUASH] = "squash", NULL};

const char *derivative_name(enum derivative derivative)
{
    return derivative_names[derivative];
}

enum derivative derivative_of(const char *name)
{
    for (int i = 0; name && derivative_names[i]; i++)
        if (strcmp(name, derivative_names[i]) == 0)
            return (enum derivative)i;
    return DERIVATIVE_AUTO;
}

static struct error check_placeholder(const struct config *config)
{
    const char *word = config->token.placeholder;
    if (strcmp(word, "__metadata__") == 0)
        return error_input("\"__metadata__\" has a special meaning in safetensors files, expected another word");
    return text_has_blank(word) ? error_input("\"%.60s\" contains white space, expected one word", word) : ok();
}

static struct error check_background(const struct config *config)
{
    uint8_t color[3];
    bool shown;
    return picture_background(config->data.background, color, &shown)
               ? ok()
               : error_input("is \"%.60s\", expected \"white\", \"black\", \"#rrggbb\" (as \"#ff8000\") or \"none\"",
                             config->data.background);
}

static struct error check_timesteps(const struct config *config)
{
    const int64_t *range = config->zo.timesteps;
    if (range[0] < range[1])
        return ok();
    return error_input("[%lld, %lld] is empty, expected a half-open range [first, end)", (long long)range[0],
                       (long long)range[1]);
}

/* Two rows have one direction, which is signal, so nothing is removed. One row would have no direction. */
static struct error check_tau(const struct config *config)
{
    return config->zo.tau == 1 ? error_input("is 1, expected 0 (chosen by width), or 2 or more (2 removes nothing)")
                               : ok();
}

static struct error check_bits(const struct config *config)
{
    int64_t bits = config->quant.bits;
    if (bits != 4 && bits != 8 && bits != 16 && bits != 32)
        return error_input("is %lld, expected 4, 8, 16 or 32", (long long)bits);
    return ok();
}

static struct error check_prediction(const struct config *config)
{
    const char *text = config->prediction;
    if (text && strcmp(text, "epsilon") != 0 && strcmp(text, "v") != 0)
        return error_input("is \"%.60s\", expected \"epsilon\", \"v\" or null", text);
    return ok();
}

static struct error check_tangents(const struct config *config)
{
    int64_t bits = config->quant.tangents;
    if (bits != 0 && bits != 8 && bits != 16 && bits != 32)
        return error_input("is %lld, expected 8, 16, 32 or \"auto\"", (long long)bits);
    return ok();
}

#define AT(field) offsetof(struct config, field)

const struct key config_keys[] = {
    {"model", TEXT, AT(model), false, NULL,
     .meaning = "a model folder, as diffusers saves it, or a checkpoint in one file, FILE.safetensors"},
    {"tokenizer", TEXT, AT(tokenizer), false, "null",
     .meaning = "a folder with a tokenizer, in place of the model's own; null: its own, or CLIP's for a checkpoint"},
    {"prediction", TEXT, AT(prediction), false, "null", .check = check_prediction,
     .meaning = "what the model predicts, epsilon or v; null: as the model says"},
    {"device", NAME, AT(device), false, "\"auto\"", .names = device_names,
     .meaning = "what computes; auto takes a GPU if there is a working one"},
    {"data.images", TEXTS, AT(data.images), false, NULL, 1, 65536,
     .meaning = "the subject's pictures: a folder, or a list of files"},
    {"data.captions", TEXT, AT(data.captions), false, "null",
     .meaning =
         "comprehensive captions, {subject: {file: \"a photo of a {} on ...\"}}; used with use_cc; null: those in a "
         "picture's NAME.txt"},
    {"data.property", POSITION, AT(data.property), true, "\"object\"", .names = property_names,
     .meaning = "what the word names; chooses the templates that serve as captions without use_cc"},
    {"data.resolution", INTEGER, AT(data.resolution), true, "512", 0, 4096,
     .meaning = "pixels of the square that the model sees; 0: the model's own size"},
    {"data.fit", POSITION, AT(data.fit), true, "\"crop\"", .names = fit_names,
     .meaning = "how a picture becomes square: cropped, or squeezed"},
    /* not in the recipe: only transparent photos heed it, and a run is known by its photos' pixels */
    {"data.background", TEXT, AT(data.background), false, "\"white\"", .check = check_background,
     .meaning = "what a transparent picture is laid over: white, black, #rrggbb, or none: the color that lies under"},
    {"data.flip", BOOLEAN, AT(data.flip), true, "true", .meaning = "mirror pictures left to right at random"},
    {"data.repeats", INTEGER, AT(data.repeats), true, "100", 1, 1000000,
     .meaning = "how often each picture is seen in one pass over the data"},
    {"data.hold_out", BOOLEAN, AT(data.hold_out), true, "false", .before = "false",
     .meaning = "keep the last picture for validation alone; no step sees it"},
    {"token.placeholder", TEXT, AT(token.placeholder), true, "\"sks\"", .check = check_placeholder,
     .meaning = "the new word"},
    {"token.initializer", TEXT, AT(token.initializer), true, NULL,
     .meaning = "where learning starts: a known word, several, or the path of a learned word's .safetensors"},
    {"token.vectors", INTEGER, AT(token.vectors), true, "1", 1, 64,
     .meaning = "embedding rows that the word stands for; without it as many as the file of token.initializer has"},
    {"zo.n", INTEGER, AT(zo.n), true, "2", 1, 1024,
     .meaning = "random directions per step, for n + 1 evaluations per picture"},
    {"zo.derivative", POSITION, AT(zo.derivative), true, "\"auto\"", .names = derivative_names,
     .before = "\"difference\"",
     .meaning = "slopes along directions: difference of two losses, or tangent, the exact "
                "derivative; auto: as the checkpoint, or what suits the device"},
    {"zo.directions", POSITION, AT(zo.directions), true, "\"normal\"", .names = directions_names,
     .before = "\"normal\"",
     .meaning = "what directions are drawn from: normal numbers; table: spread as the model's token table is; text: "
                "those that change what cross-attentions see of the captions most"},
    {"zo.rank", INTEGER, AT(zo.rank), true, "0", 0, 65536, .before = "0",
     .meaning = "how many directions text has; 0: as many as hold 99.9 % of the change, and at least zo.n"},
    {"zo.refresh", INTEGER, AT(zo.refresh), true, "0", 0, 1000000000, .before = "0",
     .meaning = "steps after which text finds its directions anew, at the word as it stands; 0: never"},
    {"zo.directions_per", POSITION, AT(zo.directions_per), true, "\"step\"", .names = per_names, .before = "\"step\"",
     .meaning = "step: a batch's pictures share the n directions; picture: each has n of its own"},
    {"zo.eps", NUMBER, AT(zo.eps), true, "0.001", 1e-9, 10,
     .meaning = "length of a difference's trial step: eps times a standard normal draw; tangents take none"},
    {"zo.sides", INTEGER, AT(zo.sides), true, "1", 1, 2,
     .meaning = "1: compare with the unmoved loss; 2: try both ways, for n more evaluations per picture"},
    {"zo.tau", INTEGER, AT(zo.tau), true, "0", 0, 65536, .check = check_tau,
     .meaning = "embeddings kept to find the subspace; 0: min(128, width / 6), 2 removes nothing"},
    {"zo.nu", NUMBER, AT(zo.nu), true, "0.001", 1e-9, 1,
     .meaning = "share of the kept embeddings' variance that counts as noise"},
    {"zo.timesteps", PAIR, AT(zo.timesteps), true, "[500, 900]", 0, 1000000, .check = check_timesteps,
     .meaning = "timesteps used for training: a half-open range [first, end)"},
    {"zo.timestep_order", POSITION, AT(zo.timestep_order), true, "\"random\"", .names = order_names,
     .before = "\"random\"",
     .meaning = "how they follow each other: random; even: spread over the range in any few steps, so less is left to "
                "chance"},
    {"optim.steps", INTEGER, AT(optim.steps), true, "30000", 1, 1000000000, .meaning = "training steps in all"},
    {"optim.method", POSITION, AT(optim.method), true, "\"adam\"", .names = method_names, .before = "\"adam\"",
     .meaning = "how slopes move the word: adam; gauss_newton: a step of its own length, from what zo.n directions of "
                "text change in the predictions"},
    {"optim.lr", NUMBER, AT(optim.lr), true, "0.01", 1e-12, 1000, .zero = "auto",
     .meaning = "learning rate of Adam, or how far gauss_newton expects to go; auto: in proportion to the model's "
                "token table, by zo.directions"},
    {"optim.schedule", POSITION, AT(optim.schedule), true, "\"constant\"", .name_at = lr_schedule_name,
     .meaning = "how the learning rate changes, by diffusers' names; warmup_stable_decay falls at the end"},
    {"optim.warmup", INTEGER, AT(optim.warmup), true, "0", 0, 1000000000,
     .meaning = "steps over which the learning rate rises from zero, if the schedule has a warmup"},
    {"optim.decay", INTEGER, AT(optim.decay), true, "0", 0, 1000000000, .before = "0",
     .meaning = "last steps, over which warmup_stable_decay falls to zero; at most all; 0: half"},
    {"optim.batch_size", INTEGER, AT(optim.batch_size), true, "1", 1, 1024, .meaning = "pictures per step"},
    {"optim.beta1", NUMBER, AT(optim.beta1), true, "0.9", 0, 0.999999999, .meaning = "Adam's decay of the mean"},
    {"optim.beta2", NUMBER, AT(optim.beta2), true, "0.999", 0, 0.999999999, .meaning = "Adam's decay of the square"},
    {"optim.eps", NUMBER, AT(optim.eps), true, "0.001", 1e-15, 10, .meaning = "Adam's guard against division by zero"},
    {"optim.patience", INTEGER, AT(optim.patience), true, "0", 0, 1000000, .before = "0",
     .meaning = "looks (validations) without a gain after which the rate falls, or the run ends; 0: off"},
    {"optim.min_gain", NUMBER, AT(optim.min_gain), true, "0.005", 0, 1, .before = "0.005",
     .meaning = "what counts as a gain for optim.patience: a validation loss lower by that share of the last gain's"},
    {"optim.minutes", NUMBER, AT(optim.minutes), false, "0", 0, 1e7,
     .meaning = "minutes of learning, of all of a run's parts together, after which it ends; 0: off"},
    {"quant.bits", INTEGER, AT(quant.bits), true, "8", 0, 64, .check = check_bits,
     .meaning = "bits of weights in memory: 8 (int8), 4, 16 or 32; a quantized model keeps its own"},
    {"quant.activations", NAME, AT(quant.activations), true, "\"fp16\"", .names = activation_names,
     .meaning = "operands of a GPU's products: pairs of fp16 numbers, or of bf16 for models that overflow"},
    {"quant.tangents", INTEGER, AT(quant.tangents), true, "\"auto\"", 8, 32, .check = check_tangents, .zero = "auto",
     .before = "32",
     .meaning =
         "bits in which tangents are multiplied: 32 or 16 (on the CPU both are float), or 8 with 8-bit weights on "
         "integer units; auto: as the checkpoint, or 8 where that is possible"},
    {"quant.cache", TEXT, AT(quant.cache), false, "null",
     .meaning = "a folder that keeps weights that were quantized, by what the model holds, for runs to come"},
    {"output.dir", TEXT, AT(output.dir), false, NULL, .meaning = "the folder for everything that the run writes"},
    {"output.save_every", INTEGER, AT(output.save_every), false, "5000", 0, 1000000000,
     .meaning = "steps between saved embeddings; 0: only at the end"},
    {"output.checkpoint_every", INTEGER, AT(output.checkpoint_every), false, "500", 0, 1000000000,
     .meaning = "steps between checkpoints; 0: only by the clock"},
    {"output.checkpoint_minutes", NUMBER, AT(output.checkpoint_minutes), false, "10", 0, 1e6,
     .meaning = "maximum minutes between checkpoints; 0: only by steps"},
    {"output.checkpoint_keep", INTEGER, AT(output.checkpoint_keep), false, "2", 0, 1000000,
     .meaning = "how many of the newest checkpoints to keep; 0: all"},
    {"output.sample_every", INTEGER, AT(output.sample_every), false, "0", 0, 1000000000,
     .meaning = "steps between generated pictures; 0: only at the end"},
    {"output.validate_every", INTEGER, AT(output.validate_every), true, "0", 0, 1000000000, .before = "0",
     .meaning = "steps between validations, of which the best word is kept; 0: a fiftieth of the evaluations"},
    {"output.sample_steps", INTEGER, AT(output.sample_steps), false, "50", 1, 1000000,
     .meaning = "the sampler's steps for each generated picture"},
    {"output.guidance", NUMBER, AT(output.guidance), false, "7.5", 0, 1000,
     .meaning = "classifier-free guidance of generated pictures; 1 or less: none, in half the time"},
    {"output.prompts", TEXTS, AT(output.prompts), false,
     "[\"a photo of a {}\", \"a photo of a {} on the beach\", \"a photo of a {} in the snow\", \"a painting of a {}\"]",
     0, 64, .meaning = "pictures' prompts; {} stands for the word, or the initializer for comparison; []: no pictures"},
    {"output.emb_params", BOOLEAN, AT(output.emb_params), false, "false",
     .meaning = "also write the word with its tensor called emb_params, for programs that ask for that"},
    {"output.on_end", TEXT, AT(output.on_end), false, "null",
     .meaning = "a program to run when it has ended, with output.dir and done, failed or stopped as its arguments"},
    {"cluster.timeout", NUMBER, AT(cluster.timeout), false, "600", 1, 1e6,
     .meaning = "seconds that a rank waits for the others before it ends the run on all"},
    {"seed", INTEGER, AT(seed), true, "0", 0, 9007199254740991.0, .meaning = "all random numbers follow from it"},
    {"use_cc", BOOLEAN, AT(use_cc), true, "false",
     .meaning = "use the captions of data.captions, or of the text file beside each picture"},
};

static_assert(sizeof config_keys / sizeof *config_keys == CONFIG_KEYS, "CONFIG_KEYS counts the table's lines");

const char *config_key_value(const struct key *key, int position)
{
    return key->names ? key->names[position] : key->name_at ? key->name_at(position) : NULL;
}

const struct key *config_key_find(const char *name)
{
    for (int i = 0; i < CONFIG_KEYS; i++)
        if (strcmp(config_keys[i].name, name) == 0)
            return &config_keys[i];
    return NULL;
}

bool config_is_group(const char *name)
{
    size_t length = strlen(name);
    for (int i = 0; i < CONFIG_KEYS; i++)
        if (strncmp(config_keys[i].name, name, length) == 0 && config_keys[i].name[length] == '.')
            return true;
    return false;
}

const char *config_last_part(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* -------------------------------------------------------------------------------- what a name was meant */

/* Our keys' names in other trainers of textual inversion (diffusers, kohya's sd-scripts, AUTOMATIC1111). */
static const struct {
    const char *theirs, *ours;
} synonyms[] = {
    {"pretrained_model_name_or_path", "model"},
    {"model_name_or_path", "model"},
    {"base_model", "model"},
    {"train_data_dir", "data.images"},
    {"instance_data_dir", "data.images"},
    {"dataset_directory", "data.images"},
    {"image_dir", "data.images"},
    {"learnable_property", "data.property"},
    {"center_crop", "data.fit"},
    {"flip_aug", "data.flip"},
    {"random_flip", "data.flip"},
    {"num_repeats", "data.repeats"},
    {"dataset_repeats", "data.repeats"},
    {"placeholder_token", "token.placeholder"},
    {"token_string", "token.placeholder"},
    {"embedding_name", "token.placeholder"},
    {"initializer_token", "token.initializer"},
    {"initialization_text", "token.initializer"},
    {"init_word", "token.initializer"},
    {"num_vectors", "token.vectors"},
    {"num_vectors_per_token", "token.vectors"},
    {"learning_rate", "optim.lr"},
    {"max_train_steps", "optim.steps"},
    {"max_steps", "optim.steps"},
    {"lr_scheduler", "optim.schedule"},
    {"scheduler", "optim.schedule"},
    {"lr_warmup_steps", "optim.warmup"},
    {"warmup_steps", "optim.warmup"},
    {"train_batch_size", "optim.batch_size"},
    {"adam_beta1", "optim.beta1"},
    {"adam_beta2", "optim.beta2"},
    {"adam_epsilon", "optim.eps"},
    {"early_stopping_patience", "optim.patience"},
    {"early_stopping_threshold", "optim.min_gain"},
    {"output_dir", "output.dir"},
    {"log_directory", "output.dir"},
    {"save_steps", "output.save_every"},
    {"save_every_n_steps", "output.save_every"},
    {"save_embedding_every", "output.save_every"},
    {"checkpointing_steps", "output.checkpoint_every"},
    {"checkpoints_total_limit", "output.checkpoint_keep"},
    {"validation_steps", "output.sample_every"},
    {"sample_every_n_steps", "output.sample_every"},
    {"create_image_every", "output.sample_every"},
    {"num_inference_steps", "output.sample_steps"},
    {"guidance_scale", "output.guidance"},
    {"validation_prompt", "output.prompts"},
    {"sample_prompts", "output.prompts"},
};

/* The name without its last part and the dot before it. */
static void group_of(char out[CONFIG_NAME_LIMIT], const char *name)
{
    const char *end = config_last_part(name);
    snprintf(out, CONFIG_NAME_LIMIT, "%.*s", end > name ? (int)(end - name - 1) : 0, name);
}

/* The last parts decide, since the commonest slip is the right word in the wrong group, or in none; among keys whose
 * last parts are equally near, the group decides. */
const char *config_meant(const char *name)
{
    char group[CONFIG_NAME_LIMIT];
    const char *last = config_last_part(name);
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++)
        if (strcmp(last, synonyms[i].theirs) == 0)
            return synonyms[i].ours;
    group_of(group, name);
    const char *best = NULL;
    int least = 0;
    for (int i = 0; i < CONFIG_KEYS; i++) {
        char other[CONFIG_NAME_LIMIT];
        int edits = nearest_edits(last, config_last_part(config_keys[i].name));
        if (edits < 0)
            continue;
        group_of(other, config_keys[i].name);
        int away = nearest_edits(group, other), far = edits * 100 + (away < 0 ? 99 : away);
        if (!best || far < least) {
            best = config_keys[i].name;
            least = far;
        }
    }
    return best;
}

bool config_meant_group(char out[CONFIG_NAME_LIMIT], const char *name)
{
    int least = -1;
    for (int i = 0; i < CONFIG_KEYS; i++) {
        char group[CONFIG_NAME_LIMIT];
        group_of(group, config_keys[i].name);
        int edits = nearest_edits(name, group);
        if (edits < 0 || (least >= 0 && edits >= least))
            continue;
        least = edits;
        memcpy(out, group, sizeof group);
    }
    return least >= 0;
}

void config_help(FILE *stream)
{
    for (int i = 0; i < CONFIG_KEYS; i++) {
        const struct key *key = &config_keys[i];
        fprintf(stream, "  %-26s %s", key->name, key->meaning);
        const char *name;
        int count = 0;
        while ((name = config_key_value(key, count)))
            fprintf(stream, "%s%s", count++ == 0 ? " (" : ", ", name);
        fprintf(stream, "%s\n", count > 0 ? ")" : "");
        fprintf(stream, "  %-26s   %s%s\n", "", key->fallback ? "default " : "required",
                key->fallback ? key->fallback : "");
    }
}
