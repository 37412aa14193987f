/* files/file.h
 *
 * Whole files: read into memory, written so that they appear complete or not at all, and folders.
 *
 * What cannot be opened, read, listed or looked at is ERROR_BAD_INPUT if the path is wrong, and ERROR_FAILED if the disk
 * or the network is at fault (error_path); the latter is tried again some times first (files/attempts.h).
 */
#ifndef ZOODIP_FILES_FILE_H
#define ZOODIP_FILES_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

/* Room for a path with its final zero byte; longer ones are refused. */
enum { PATH_SIZE = 4096 };

/* Opens a regular file to read; folders, pipes and devices are refused. Close *descriptor with close(). */
struct error file_open(const char *path, int *descriptor, int64_t *size);

/* Reads a regular file of at most `limit` bytes; adds a zero byte at the end. Free *data with memory_free. */
struct error file_read(const char *path, int64_t limit, char **data, int64_t *size);

/* Reads from an open file up to `size` bytes; *done: how many there were. `path` is for errors. */
struct error file_read_bytes(const char *path, int descriptor, char *bytes, int64_t size, int64_t *done);

/* The CRC-32 of a regular file's bytes. */
struct error file_crc(const char *path, uint32_t *crc);

/* Refuses content that stands in for a file that was not fetched: a git-lfs pointer. file_read has done this. */
struct error file_check_content(const char *path, const void *bytes, int64_t size);

/* Writes size bytes to PATH: temporary name beside it, fsync, rename, fsync of the folder. On an error the temporary is
 * removed and an older PATH is untouched. */
struct error file_write_whole(const char *path, const void *data, int64_t size);

/* Writes to an open file from *end on, all of the data or nothing; then *end is behind them. `path` is for errors. */
struct error file_append(const char *path, int descriptor, const void *data, int64_t size, int64_t *end);

/* file_write_whole in pieces: begin opens a stream on the temporary file; end makes the file appear, or removes it if
 * `good` is false. */
struct whole_file {
    FILE *stream;                               /* to write to */
    char path[PATH_SIZE], temporary[PATH_SIZE]; /* private */
};
struct error whole_file_begin(struct whole_file *file, const char *path);
struct error whole_file_end(struct whole_file *file, bool good);

/* For a file that tells how things are now: it may be lost if the machine loses power, and nobody waits for the disk. */
struct error whole_file_end_lightly(struct whole_file *file, bool good);

/* What is at a path; links are followed, and whatever is no folder counts as a file. An error where one cannot look. */
enum path_kind { PATH_NOTHING, PATH_FILE, PATH_FOLDER };
struct error path_look(const char *path, enum path_kind *kind);

/* Whether both lead to the same file or folder, which is there. */
bool path_same(const char *a, const char *b);

/* Whether PATH leads to the file or folder that is open as `descriptor`. */
bool path_is_of(const char *path, int descriptor);

/* Whether a path is FOLDER, or lies in it. Both as realpath gives them. */
bool path_lies_within(const char *folder, const char *path);

/* path_look as a question, for what may be left out: also false where one cannot look. */
bool file_exists(const char *path);
bool folder_exists(const char *path);

/* mkdir -p. */
struct error folder_make(const char *path);

/* Makes renames in an open folder survive a power failure; false, with errno, if that fails. */
bool folder_sync(int folder);

/* Makes a rename in the folder that PATH is in survive a power failure. */
struct error folder_sync_of(const char *path);

/* ERROR_BAD_INPUT if PATH, or a link in it or in a folder directly below it, leads out of ROOT (an existing folder).
 * PATH need not exist. */
struct error folder_within(const char *root, const char *path);

/* The names in a folder, sorted bytewise, "." and ".." left out. Free with folder_list_free. */
struct error folder_list(const char *path, char ***names, int64_t *count);
/* The same of an open folder; `path` is for errors. */
struct error folder_list_at(int descriptor, const char *path, char ***names, int64_t *count);
void folder_list_free(char **names, int64_t count);

/* Removes the files of a folder whose names are `unwanted`. */
struct error folder_clean(const char *path, bool (*unwanted)(const char *name));

/* Removes what a process that was killed left of its files there, NAME.NUMBER.tmp. Nobody else may be writing there. */
struct error folder_clean_unfinished(const char *path);

/* The part of a path after its last slash. */
const char *path_name(const char *path);

/* "FOLDER/NAME"; error when it does not fit. */
struct error path_join(char out[PATH_SIZE], const char *folder, const char *name);

#endif
