/* Asks grokd and prints the answer as it comes: ask QUESTION */
#include <grokd.h>
#include <stdio.h>

int main(int argc, char **argv) {
    struct grokd_generate_request request = GROKD_GENERATE_REQUEST_INIT;
    const struct grokd_event *event;
    struct grokd_error error = {0};
    grokd_client *client = NULL;
    grokd_call *call = NULL;
    char prompt[1000];

    (void)snprintf(prompt, sizeof(prompt), "Q: %s\nA:", argc > 1 ? argv[1] : "Who are you?");
    request.text = prompt;
    if (grokd_connect(&client, NULL, &error) == GROKD_OK &&
        grokd_begin_generate(client, &request, &call, &error) == GROKD_OK) {
        while (grokd_call_next(call, -1, &event, &error) == GROKD_NEXT_EVENT) {
            if (event->chunk) {
                (void)printf("%s", event->chunk->text);
                (void)fflush(stdout);
            }
        }
    }
    if (error.code)
        (void)fprintf(stderr, "ask: %s\n", error.text);
    (void)putchar('\n');
    (void)grokd_call_free(call);
    (void)grokd_client_free(client);
    return error.code ? 1 : 0;
}
