#include "files/sha256.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <unistd.h>

#include "base/progress.h"
#include "files/attempts.h"
#include "files/file.h"

enum { PIECE = 1 << 16 };

static void write_text(char text[SHA256_TEXT], const unsigned char *digest)
{
    for (int i = 0; i < SHA256_TEXT / 2; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
}

struct error sha256_bytes(char text[SHA256_TEXT], const void *bytes, int64_t size)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    if (!EVP_Digest(bytes, (size_t)size, digest, NULL, EVP_sha256(), NULL))
        return error_memory("a SHA-256");
    write_text(text, digest);
    return ok();
}

static struct error digest_all(EVP_MD_CTX *context, const char *path, int descriptor, struct progress *progress)
{
    char piece[PIECE];
    int64_t got = PIECE, done = 0;
    while (got == PIECE) {
        TRY(file_read_bytes(path, descriptor, piece, PIECE, &got));
        if (!EVP_DigestUpdate(context, piece, (size_t)got))
            return error_memory("a SHA-256");
        done += got;
        progress_step(progress, done / PROGRESS_MEGABYTE, "");
    }
    return ok();
}

static struct error digest_once(EVP_MD_CTX *context, const char *path)
{
    int descriptor;
    int64_t size;
    struct progress progress;
    char what[200];
    if (!EVP_DigestInit_ex(context, EVP_sha256(), NULL))
        return error_memory("a SHA-256");
    TRY(file_open(path, &descriptor, &size));
    snprintf(what, sizeof what, "hashing %s", path_name(path));
    progress_phase(&progress, what, size / PROGRESS_MEGABYTE, "MB");
    struct error e = digest_all(context, path, descriptor, &progress);
    progress_end(&progress);
    close(descriptor);
    return e;
}

struct error sha256_file(char text[SHA256_TEXT], const char *path)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    struct error e = context ? ok() : error_memory("a SHA-256");
    for (struct attempts a = {0}; context;) {
        e = digest_once(context, path);
        if (!attempts_again(&a, e))
            break;
    }
    if (e.code == ERROR_NONE && !EVP_DigestFinal_ex(context, digest, NULL))
        e = error_memory("a SHA-256");
    EVP_MD_CTX_free(context);
    if (e.code == ERROR_NONE)
        write_text(text, digest);
    return e;
}
