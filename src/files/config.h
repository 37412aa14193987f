/* files/config.h
 *
 * A run's config: one JSON object whose groups ("data", "token", "zo", ...) are the nested structs below, so that the
 * key zo.eps of the file is the field config.zo.eps. config_keys.c holds ONE table with a line for every key (name,
 * kind, field, default, range, meaning); parsing, --set, defaults, errors and the list in --help all use it.
 *
 * Invariant: after config_read has returned without error every field lies in its key's range and the rules between
 * keys hold (timesteps in order, for instance). What depends on the model or the disk (does
 * the folder exist, does the model know the initializer, does the resolution fit the VAE) is checked by the code that opens
 * those.
 *
 * Errors are ERROR_BAD_INPUT, "SOURCE: KEY: what is wrong, what was expected". SOURCE is what gave the key its value (a
 * file, a job, --set), or, for a missing key, the last of the files. Code that later finds a value to be wrong reports
 * it through config_blame. The file may be hostile: at most 16 MB, and nothing in it is trusted.
 */
#ifndef ZOODIP_FILES_CONFIG_H
#define ZOODIP_FILES_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "base/text.h"
#include "files/picture.h"

struct texts {
    char **items; /* [count], owned by the config */
    int64_t count;
};

enum { CONFIG_KEYS = 60 }; /* lines of the table, each a field of struct config */

/* How a recipe calls a word that was read from a file. */
#define CONFIG_WORD_FILE "a word of CRC-32 "
enum { CONFIG_CONTENTS = 40 };

enum property { PROPERTY_OBJECT, PROPERTY_STYLE };

/* How a loss's derivative along a direction is found: from the loss a step of eps away (the paper's), or by tangent
 * lanes, which carry the derivative itself (device/device.h). */
enum derivative { DERIVATIVE_AUTO, DERIVATIVE_DIFFERENCE, DERIVATIVE_TANGENT };

const char *derivative_name(enum derivative derivative); /* "auto", "difference", "tangent" */
enum derivative derivative_of(const char *name);         /* DERIVATIVE_AUTO for another name, or NULL */

/* What a step's directions are drawn from: any (the paper's), those of the token table's rows, or those that cross-
 * attentions see (zo/coordinates.h). */
enum directions { DIRECTIONS_NORMAL, DIRECTIONS_TABLE, DIRECTIONS_TEXT };

/* How slopes move the word: by Adam (the paper's), or by zo/gauss_newton.h. */
enum method { METHOD_ADAM, METHOD_GAUSS_NEWTON };

/* Whether a step's timesteps know of the steps before. */
enum timestep_order { TIMESTEPS_RANDOM, TIMESTEPS_EVEN };

enum directions_per { DIRECTIONS_PER_STEP, DIRECTIONS_PER_PICTURE };

/* Texts are owned and end in zero; device and activations point at static names. */
struct config {
    char *model;        /* a diffusers folder, or a checkpoint in a single file */
    char *tokenizer;    /* the folder of another tokenizer than the model's own, or NULL */
    char *prediction;   /* "epsilon", "v", or NULL: as the model says */
    const char *device; /* "auto", "cpu" or "cuda", as device_open takes it */
    struct {
        struct texts images;    /* one folder, or files: as written, not opened here */
        char *captions;         /* cc.json, or NULL */
        enum property property; /* which templates serve as captions */
        int64_t resolution;     /* pixels; 0: the model's own size */
        enum fit fit;
        char *background; /* as picture_background takes it */
        bool flip;
        int64_t repeats;
        bool hold_out; /* the last picture is for validation alone */
    } data;
    struct {
        char *placeholder;
        char *initializer; /* a text, or a learned word's file: config_initializer_is_file */
        int64_t vectors;
    } token;
    struct {
        int64_t n;
        enum derivative derivative;
        enum directions directions;
        int64_t rank;                       /* of the directions of text; 0: by the spectrum */
        int64_t refresh;                    /* steps between two computations of them; 0: only before the first step */
        enum directions_per directions_per; /* n for a whole step, or n for each picture of its batch */
        double eps;
        int64_t sides; /* 1 or 2 */
        int64_t tau;   /* 0: min(128, width of the embedding / 6), once the model is known */
        double nu;
        int64_t timesteps[2]; /* [first, end) */
        enum timestep_order timestep_order;
    } zo;
    struct {
        int64_t steps;
        enum method method;
        double lr;    /* 0: auto, until pipeline/learning_rate.h has settled it */
        int schedule; /* as lr_schedule_rate takes it */
        int64_t warmup, decay;
        int64_t batch_size;
        double beta1, beta2, eps;
        int64_t patience; /* looks; 0: off */
        double min_gain;  /* share of the last gain's loss */
        double minutes;   /* 0: off */
    } optim;
    struct {
        int64_t bits;            /* 4, 8, 16 or 32 */
        const char *activations; /* "fp16" or "bf16": the operands of a GPU's products, in pairs */
        int64_t tangents;        /* bits in which tangents are multiplied: 8, 16, 32; 0: auto */
        char *cache;             /* a folder, or NULL */
    } quant;
    struct {
        char *dir;
        int64_t save_every;        /* steps; 0: only at the end */
        int64_t checkpoint_every;  /* steps; 0: by the clock alone */
        double checkpoint_minutes; /* 0: by steps alone */
        int64_t checkpoint_keep;   /* 0: all */
        int64_t sample_every;      /* steps; 0: only at the end */
        int64_t validate_every;    /* steps; 0: see zo/looks.h */
        int64_t sample_steps;      /* the sampler's, for each of these pictures */
        double guidance;           /* of these pictures; 1 or less: none */
        struct texts prompts;      /* "{}" stands for the word; none: no pictures */
        bool emb_params;           /* the best word also as AUTOMATIC1111 names its tensor */
        char *on_end;              /* a program (files/on_end.h), or NULL */
    } output;
    struct {
        double timeout; /* seconds */
    } cluster;
    int64_t seed;
    bool use_cc;

    /* What the initializer's file holds, for the recipe: CONFIG_WORD_FILE and its CRC-32 once it has been read
     * (pipeline/initializer.h), else "". */
    char initializer_contents[CONFIG_CONTENTS];

    /* Private: what gave the values, for config_blame. */
    struct texts sources;
    unsigned char source_of[CONFIG_KEYS]; /* the source of each key, in the table's order */
    bool given[CONFIG_KEYS];              /* does the value come from there? Else it is the default */
};

/* Reads PATH, then applies `sets`, texts "KEY=VALUE", in order (VALUE is JSON, or a bare text if it is not JSON or
 * the key takes a text), then fills in defaults and checks. Nothing is owned after an error. */
struct error config_read(struct config *config, const char *path, const struct text_list *sets);

/* The same from objects that are already parsed, later ones overriding earlier ones, such as a queue's defaults and one
 * of its jobs. Each layer is named in the errors by its own `source`. */
struct cJSON;
struct config_layer {
    const struct cJSON *object;
    const char *source;
};
struct error config_layers(struct config *config, const struct config_layer *layers, int64_t layer_count,
                           const struct text_list *sets);

/* What layers and sets say, ignoring what is missing: a text is then NULL, the other fields are 0. Nothing is owned
 * after an error. */
struct error config_partial(struct config *config, const struct config_layer *layers, int64_t layer_count,
                            const struct text_list *sets);

/* Whether that is valid. */
struct error config_check(const struct config_layer *layers, int64_t layer_count, const struct text_list *sets);

/* An error about a key's value, as "SOURCE: KEY: text". A code of 0 passes unchanged. */
struct error config_blame(const struct config *config, const char *key, struct error e);

/* Whether some layer or --set gives the key a value, so that it is not the default. */
bool config_gives(const struct config *config, const char *key);

/* Whether token.initializer is a path: it has a slash, or ends as the files of words do (.safetensors, or .pt and .bin,
 * which are not read). Not of a config without it. */
bool config_initializer_is_file(const struct config *config);

/* An independent copy; nothing is owned after an error. */
struct error config_copy(struct config *to, const struct config *from);

void config_free(struct config *config);

/* Every key with its effective value, as indented JSON with a final newline. NULL when out of memory; memory_free. */
char *config_json(const struct config *config);

/* One line of JSON that must be equal for a resume to make sense: the keys that change the training. Leaves out
 * output.* but validate_every, cluster.*, device, and optim.steps if the schedule does not depend on it, so that a run
 * may be moved or prolonged; optim.minutes, since time does not repeat itself; optim.min_gain without optim.patience,
 * zo.eps beside tangents and quant.tangents beside differences, which have no use for it; and model, data.images and
 * data.captions, which are compared by what they lead to (files/origin.h). Of an initializer's file it says what that
 * holds, once that is known. NULL when out of memory; memory_free. */
char *config_recipe(const struct config *config);

/* A recipe may be from before a key existed: adds such keys to the parsed text, each with what all runs did then. False
 * when out of memory, or if a group is missing. */
bool config_recipe_complete(struct cJSON *recipe);

/* The key that an unknown name was probably meant to be: one with a similar spelling, in another group, or by another
 * trainer's name (learning_rate is optim.lr). NULL if none is near. */
const char *config_meant(const char *name);

/* For --help: a line for each key with its default and meaning. */
void config_help(FILE *stream);

#endif
