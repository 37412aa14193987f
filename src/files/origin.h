/* files/origin.h
 *
 * What a run stands on, by contents and never by paths: a checkpoint says it, and a run continues only from a
 * checkpoint that stands on the same. So a run whose model, photos or captions were moved goes on to the same bits, and
 * one that finds others under the old path does not.
 *
 * Each fact is a text, as the metadata of a checkpoint holds it. Two that are equal mean equal contents.
 */
#ifndef ZOODIP_FILES_ORIGIN_H
#define ZOODIP_FILES_ORIGIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "files/config.h"

enum origin_fact {
    ORIGIN_RECIPE,   /* the config's keys that shape the training, see config_recipe */
    ORIGIN_MODEL,    /* the model folder's contents, see model/contents.h */
    ORIGIN_PICTURES, /* how many, and their pixels and masks' after fitting, in any order */
    ORIGIN_ORDER,    /* their pixels in their order, which draws refer to */
    ORIGIN_CAPTIONS, /* their token ids */
    ORIGIN_DEVICE,   /* what computes, see device_model; may change, and the bits with it */
    ORIGIN_FACTS
};

struct origin {
    const char *facts[ORIGIN_FACTS]; /* borrowed */
};

/* A fact's name in a checkpoint's metadata. */
const char *origin_name(enum origin_fact fact);

enum { ORIGIN_TEXT = 100 };

/* The texts of contents that are known by their CRC-32, and of pictures: how many there are, and theirs. */
void origin_crc(char text[ORIGIN_TEXT], uint32_t crc);
void origin_pictures(char text[ORIGIN_TEXT], int64_t count, uint32_t crc);

/* Do two recipes differ? text: in which key first, ": KEY is 2 there and 3 here", or empty. A key that did not exist
 * when one of them was written counts there as what was done then. */
enum { RECIPE_DIFFERENCE = 400 };
bool recipe_differs(char text[RECIPE_DIFFERENCE], const char *theirs, const char *ours);

/* Which derivative the run of a recipe takes; DERIVATIVE_AUTO if it does not say, or is none. */
enum derivative recipe_derivative(const char *recipe);

/* Its quant.tangents, as struct config has it. */
int64_t recipe_tangents(const char *recipe);

/* What it says of an initializer's file and of the word's vectors; false if the run started from a text, or it is none. */
bool recipe_initializer(const char *recipe, char contents[CONFIG_CONTENTS], int64_t *vectors);

/* Its learning rate; 0 if it does not say. */
double recipe_rate(const char *recipe);

/* ERROR_BAD_INPUT says in which ways the two differ, apart from the device. */
struct error origin_compare(const struct origin *theirs, const struct origin *ours);

#endif
