/* report/film.h
 *
 * The pictures that a run generates while it learns (output.sample_every): FOLDER/samples/step-N-PROMPT.png, prompts
 * counted from 1. A page shows them as strips, one for each prompt, from the first step to the last.
 */
#ifndef ZOODIP_REPORT_FILM_H
#define ZOODIP_REPORT_FILM_H

#include <stdint.h>
#include <stdio.h>

#include "files/file.h"
#include "report/report.h"

/* Where the picture of one prompt (from 0) after one step is. */
struct error film_path(char path[PATH_SIZE], const char *folder, int64_t step, int64_t prompt);

/* The strips under a heading, between the start word's and the learned word's pictures; nothing if there are no
 * pictures. Of many steps some are left out, evenly, and the page says so; as it does of a picture that cannot be
 * read. */
struct error film_put(FILE *out, const char *folder, const struct report_pictures *pictures, int64_t last_step);

#endif
