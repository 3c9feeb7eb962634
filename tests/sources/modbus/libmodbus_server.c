/* A Modbus server on libmodbus: "tcp", or "rtu <device> <unit id>". Says "ready <port>" once it is.

   Holding register a holds 7 a + 1, input register a 5 a + 2, coil a is a mod 3 = 0, discrete
   input a is a mod 5 = 0; there are 500 of each. */

#include <errno.h>
#include <modbus/modbus.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { PLACES = 500 };

static void answer(modbus_t *context, modbus_mapping_t *mapping, int header)
{
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    for (;;) {
        int size = modbus_receive(context, query);
        if (size > 0)
            modbus_reply(context, query, size, mapping);
        else if (size < 0 && header)
            return; /* the connection is closed */
        else if (size < 0 && errno != EMBBADCRC && errno != ETIMEDOUT)
            exit(0); /* the line is gone */
    }
}

int main(int argc, char **argv)
{
    modbus_mapping_t *mapping = modbus_mapping_new(PLACES, PLACES, PLACES, PLACES);
    if (argc < 2 || mapping == NULL)
        return 2;
    for (int a = 0; a < PLACES; a++) {
        mapping->tab_registers[a] = (uint16_t)(7 * a + 1);
        mapping->tab_input_registers[a] = (uint16_t)(5 * a + 2);
        mapping->tab_bits[a] = a % 3 == 0;
        mapping->tab_input_bits[a] = a % 5 == 0;
    }
    if (strcmp(argv[1], "rtu") == 0 && argc == 4) {
        modbus_t *line = modbus_new_rtu(argv[2], 19200, 'N', 8, 1);
        if (line == NULL || modbus_set_slave(line, atoi(argv[3])) || modbus_connect(line))
            return 3;
        printf("ready 0\n");
        fflush(stdout);
        answer(line, mapping, 0);
    }
    modbus_t *network = modbus_new_tcp("127.0.0.1", 0);
    int listener = network == NULL ? -1 : modbus_tcp_listen(network, 4);
    struct sockaddr_in place;
    socklen_t size = sizeof place;
    if (listener < 0 || getsockname(listener, (struct sockaddr *)&place, &size))
        return 4;
    printf("ready %d\n", ntohs(place.sin_port));
    fflush(stdout);
    while (modbus_tcp_accept(network, &listener) >= 0) {
        answer(network, mapping, 1);
        modbus_close(network);
    }
    return 0;
}
