/* zo/dataset.h
 *
 * The subject: its pictures, as posteriors of the VAE (mean and log-variance, encoded once, plain and mirrored), and
 * the captions with the word in them, as token ids.
 *
 * Rank 0 reads photos and captions and decodes; the others get pixels and ids from it, and need not see the files.
 */
#ifndef ZOODIP_ZO_DATASET_H
#define ZOODIP_ZO_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/progress.h"
#include "cluster/comm.h"
#include "device/device.h"
#include "files/config.h"
#include "files/photos.h"
#include "files/picture.h"
#include "model/vae.h"
#include "text/captions.h"
#include "text/tokenizer.h"

struct dataset {
    int64_t count;
    int64_t trained;          /* the first of them, that steps draw: all, or with data.hold_out all but the last */
    char **paths;             /* [count], in the order of their names; as rank 0 knows them */
    struct picture *pictures; /* [count], fitted to the resolution */
    int64_t masked;           /* pictures with a mask (zo/masks.h) */
    uint8_t **masks;          /* [count]: grey [resolution, resolution], or NULL; NULL if none is masked */
    struct captions captions; /* templates, or one for each picture; the texts are NULL on all ranks but 0 */
    bool caption_per_picture;
    uint32_t sources; /* see dataset_sources */
    int64_t length;   /* ids of a caption */
    int32_t *ids;     /* [captions.count, length] */
    bool flip;
    int64_t height, width, channels; /* of a latent; set by dataset_encode */
    float *moments[2];               /* plain, mirrored (NULL without flip): [count, height, width, 2 channels] */
    float *weights[2];               /* in the loss, the same way: [count, height, width]; NULL if none is masked */
    bool borrowed;                   /* private: all but the last two belongs to another */
    struct photos photos;            /* private: what rank 0 has found, without the paths */
};

/* Finds and reads the pictures and their masks, fits them to resolution x resolution, reads or makes the captions. An error
 * names the key, file or caption at fault; rank 0 logs warnings: files of a folder that are not used, pictures that are
 * enlarged, captions that are cut off or say the word once too often, lines of a caption's file after its first.
 * `first_id`.. are the word's tokens: every caption must keep them within `length`. Collective: config, resolution and
 * length are the same on all ranks, and so is what they get. */
struct error dataset_read(struct dataset *s, const struct config *config, const struct tokenizer *tokenizer,
                          int32_t first_id, int64_t resolution, int64_t length, struct comm *comm);
void dataset_free(struct dataset *s);

/* The CRC-32 of what dataset_read would read: the captions, the photos' files and their masks', in their order; and of a
 * background other than white and the initializer's file, if there are any. Where it is the same, so are they all, and finding out takes less time than
 * decoding. Not collective. */
struct error dataset_sources(const struct config *config, uint32_t *crc);

/* The same pictures, masks and captions, not yet encoded; `from` outlives them. */
struct dataset dataset_borrow(const struct dataset *from);

/* Encodes the pictures, and finds the weights of their masks: each rank encodes a share, then all ranks get all of them.
 * `progress`: a phase that the caller has begun, of which `done` pictures are done already. Collective. */
struct error dataset_encode(struct dataset *s, struct device *device, const struct vae *vae, struct comm *comm,
                            struct progress *progress, int64_t done);

/* The picture of a validation's draw: all in turn, or with data.hold_out the last alone. */
int64_t dataset_validated(const struct dataset *s, int64_t draw);

/* What a picture's places count in the loss, [height, width], after dataset_encode; NULL: all alike, no picture has a
 * mask. */
const float *dataset_weights(const struct dataset *s, bool mirrored, int64_t picture);

/* Mean and standard deviation of the posterior at a position -> moments [channels of means, channels of deviations].
 * position: of [count, height, width]; log-variance clamped to [-30, 20] (diffusers' DiagonalGaussianDistribution). */
void dataset_moments(const struct dataset *s, bool mirrored, int64_t position, float *moments);

#endif
