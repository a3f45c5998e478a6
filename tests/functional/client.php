<?php
/*
 * A client of the original revision of protocol 01, as strict as the clients in the field: it takes the frame header with one read,
 * knows from its own table how many packets follow, and gives up on anything that it does not expect.
 *
 * usage: php client.php ADDRESS send QUEUE FIRST LAST      sends the numbers from FIRST up to before LAST
 *        php client.php ADDRESS consume QUEUE COUNT WINDOW prints so many bodies, acknowledges each
 */

const PACKETS = ['H01003' => [1, 2, 3]];

function fail(string $reason): never
{
    fwrite(STDERR, $reason . "\n");
    exit(1);
}

function packet(int $type, string $content): string
{
    return sprintf('P%02d%029d', $type, strlen($content)) . $content;
}

function exactly($stream, int $length): string
{
    $data = '';
    while (strlen($data) < $length) {
        $part = fread($stream, $length - strlen($data));
        if ($part === false || $part === '') {
            fail('nothing more comes inside of a frame');
        }
        $data .= $part;
    }
    return $data;
}

function delivery($stream): array
{
    $header = fread($stream, 8);
    if (strlen($header) !== 8) {
        fail('frame header of ' . strlen($header) . ' bytes');
    }
    $expected = PACKETS[substr($header, 0, 6)] ?? fail("unexpected frame $header");
    if ((int) substr($header, 6) !== count($expected)) {
        fail("$header announces another number of packets");
    }
    $packets = [];
    stream_set_timeout($stream, 0, 500000);
    foreach ($expected as $_) {
        $start = exactly($stream, 32);
        if ($start[0] !== 'P' || !ctype_digit(substr($start, 1))) {
            fail("unexpected packet $start");
        }
        $length = (int) substr($start, 3);
        $packets[(int) substr($start, 1, 2)] = $length ? exactly($stream, $length) : '';
    }
    stream_set_timeout($stream, 10);
    foreach ($expected as $type) {
        isset($packets[$type]) || fail("packet $type is missing");
    }
    return $packets;
}

[, $address, $command, $queue, $first, $second] = $argv;
$stream = stream_socket_client($address, $code, $reason, 5) ?: fail($reason);
stream_set_timeout($stream, 10);
if ($command === 'send') {
    for ($number = (int) $first; $number < (int) $second; $number++) {
        fwrite($stream, 'H0100102' . packet(1, $queue) . packet(2, "$number")) || fail('cannot write');
    }
} else {
    fwrite($stream, 'H0100202' . packet(1, $queue) . packet(4, $second));
    for ($count = (int) $first; $count; $count--) {
        $packets = delivery($stream);
        $packets[1] === $queue || fail("a message of $packets[1]");
        fwrite($stream, 'H0100402' . packet(1, $queue) . packet(3, $packets[3])) || fail('cannot write');
        echo $packets[2], "\n";
    }
}
fclose($stream);
