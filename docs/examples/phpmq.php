<?php
/*
 * A client of phpmq in one file, without dependencies, for PHP 7.4 and newer. Copy it into your project.
 *
 * It speaks version 02 of the protocol, in which the server answers every request.
 */

declare(strict_types=1);

/** The server could not be reached or did not answer in time: it may or may not have done what it was asked for. */
class PhpmqUnreachable extends RuntimeException
{
}

/** The server refused, and did nothing. */
class PhpmqRefused extends RuntimeException
{
    /** Why, for programs: "memory-full", "bad-name" and others that the protocol lists. */
    public string $reason;

    public function __construct(string $reason, string $text)
    {
        parent::__construct("$text ($reason)");
        $this->reason = $reason;
    }
}

/** A message that the client holds until it settles it. */
final class PhpmqDelivery
{
    public string $queue;
    public string $body;

    /** The same each time that the message is delivered. */
    public string $id;

    /** This delivery is its n-th, from 1. */
    public int $attempts;

    /** Seconds that it had left when the server sent it; 0 for one that does not expire. */
    public float $ttl;

    /** @var array<string, string> what the sender put beside the body */
    public array $headers;

    /** The connection that it came over; when that is lost, the server takes the message back. */
    public int $connection;
}

/**
 * One connection to a server, made when it is needed and again after it was lost.
 *
 * Make it in the process that uses it: two processes cannot share a connection.
 */
final class PhpmqClient
{
    private const SEND = 1, CONSUME = 2, DELIVER = 3, ACKNOWLEDGE = 4, REQUEUE = 5, DEAD_LETTER = 6, RECEIPT = 7, REFUSED = 8, TOUCH = 9,
        HELLO = 10, DRAINING = 11;

    private const QUEUE = 1, CONTENT = 2, ID = 3, COUNT = 4, TTL = 5, TAG = 6, DELAY = 7, LEVEL = 8, HEADERS = 9, KEY = 10, ATTEMPTS = 11,
        REASON = 12, CODE = 13, LEASE = 14;

    /** After so many seconds of silence, the server is asked whether it is still there. */
    private const HEARTBEAT = 30.0;

    private string $address;
    private string $target;
    private float $timeout;

    /** @var resource|null */
    private $stream = null;
    private int $connection = 0;
    private string $incoming = '';
    private int $read = 0;
    private string $outgoing = '';
    private int $written = 0;
    private float $heard = 0.0;

    private int $tags = 0;
    private array $answers = [];
    private array $consumes = [];
    private array $deliveries = [];

    /**
     * @param string $address "HOST", "HOST:PORT", "tcp://HOST:PORT", "tls://HOST:PORT" or "unix:///PATH"; the default port is 9100
     * @param float $timeout most seconds that a request may take
     * @throws InvalidArgumentException it is no address
     */
    public function __construct(string $address, float $timeout = 5.0)
    {
        $this->address = $address;
        $this->target = self::target($address);
        $this->timeout = $timeout;
    }

    /**
     * Send a message: its id, once the server has it on its disk.
     *
     * While the server is away, this tries again until the timeout is over. The key keeps a repetition from being stored a second time.
     *
     * @param array $options "ttl": seconds until it expires. "delay": seconds until a consumer gets it. "headers": strings by name.
     *     "key": while the queue knows a message with that key, another one is not stored; by default nothing else has the same.
     *     "level": "synced", or "stored" for a receipt that does not wait for the disk
     * @throws PhpmqUnreachable nobody knows whether the server has the message
     * @throws PhpmqRefused it has not, unless the answer to an earlier try was lost
     */
    public function send(string $queue, string $body, array $options = []): string
    {
        $packets = [self::QUEUE => $queue, self::CONTENT => $body, self::LEVEL => $options['level'] ?? 'synced'];
        $packets[self::KEY] = $options['key'] ?? bin2hex(random_bytes(16));
        $packets += self::seconds(self::TTL, $options['ttl'] ?? 0) + self::seconds(self::DELAY, $options['delay'] ?? 0);
        if (!empty($options['headers'])) {
            $packets[self::HEADERS] = json_encode(array_map('strval', $options['headers']), JSON_FORCE_OBJECT | JSON_THROW_ON_ERROR);
        }
        $until = self::now() + $this->timeout;
        while (true) {
            try {
                return $this->request(self::SEND, $packets, $until)[self::ID] ?? '';
            } catch (PhpmqUnreachable $error) {
                if (self::now() + 0.1 >= $until) {
                    throw $error;
                }
                usleep(100000);
            }
        }
    }

    /**
     * Have a queue's messages delivered to receive(), over this connection and the next ones. There may be several queues.
     *
     * @param int $window the most messages to hold at a time
     * @param float $lease seconds after which one that is not settled goes to somebody else; 0 for never
     */
    public function consume(string $queue, int $window = 1, float $lease = 0): void
    {
        $packets = [self::QUEUE => $queue, self::COUNT => (string) $window] + self::seconds(self::LEASE, $lease);
        $this->consumes[$queue] = self::frame(self::CONSUME, $packets);
        if ($this->stream !== null) {
            $this->outgoing .= $this->consumes[$queue];
        }
    }

    /**
     * The next message, null if none comes within so many seconds.
     *
     * @throws PhpmqUnreachable the server is away; call again to connect again
     * @throws PhpmqRefused
     */
    public function receive(float $seconds): ?PhpmqDelivery
    {
        $until = self::now() + $seconds;
        $this->connect(self::now() + $this->timeout);
        do {
            $message = array_shift($this->deliveries);
        } while ($message === null && $this->exchange($until));
        if ($message === null && self::now() - $this->heard > self::HEARTBEAT) {
            $this->request(self::HELLO, [], self::now() + $this->timeout);
        }
        return $message;
    }

    /** The message is done. False if the server does not confirm it, and may deliver the message again. */
    public function acknowledge(PhpmqDelivery $message): bool
    {
        return $this->settle(self::ACKNOWLEDGE, $message);
    }

    /** The message goes to the tail of its queue, and is delivered again after so many seconds. False as with acknowledge(). */
    public function requeue(PhpmqDelivery $message, float $delay = 0): bool
    {
        // Without its time to live it would never expire.
        return $this->settle(self::REQUEUE, $message, self::seconds(self::DELAY, $delay) + self::seconds(self::TTL, $message->ttl));
    }

    /** The message is set aside for people to look at; nobody gets it any more. False as with acknowledge(). */
    public function deadLetter(PhpmqDelivery $message, string $reason): bool
    {
        // At most 1024 bytes of UTF-8: this leaves out what is none, such as a character that was cut in two.
        $reason = json_decode(json_encode(substr($reason, 0, 1024), JSON_INVALID_UTF8_IGNORE));
        return $this->settle(self::DEAD_LETTER, $message, [self::REASON => $reason]);
    }

    /** The lease of the message starts again. False as with acknowledge(). */
    public function touch(PhpmqDelivery $message): bool
    {
        return $this->settle(self::TOUCH, $message);
    }

    /** Hang up: the server takes back what is not settled. The next call connects again. */
    public function close(): void
    {
        if ($this->stream !== null) {
            fclose($this->stream);
            $this->stream = null;
        }
        $this->incoming = $this->outgoing = '';
        $this->read = $this->written = 0;
        $this->answers = $this->deliveries = [];
    }

    /**
     * The address as PHP has it: "tcp://HOST:PORT", "tls://HOST:PORT" or "unix://PATH".
     *
     * @throws InvalidArgumentException it is no address
     */
    public static function target(string $address): string
    {
        preg_match('{^(?:(tcp|tls|unix):(//)?|phpmq:(//)|(\w[\w.]*)://)?(.*)$}is', $address, $part);
        [, $kind, $slashes, $phpmq, $other, $rest] = $part;
        if (in_array(strtolower($other), stream_get_transports(), true)) {
            return $address;
        }
        if (strtolower($kind) === 'unix') {
            $path = preg_replace('{\\\\(.)}s', '$1', $rest);
            if ($path !== '' && strlen($path) <= 107) {
                return "unix://$path";
            }
        } elseif ($other === '') {
            $rest = $slashes . $phpmq === '' ? $rest : preg_replace('{/$}', '', $rest);
            $rest = self::isIPv6($rest) ? "[$rest]" : $rest;
            $found = preg_match('{^(\[(.+)\]|[^]\[\s:/?#@]+)(?::(\d{1,5}))?$}D', $rest, $part);
            [, $host, $inner, $port] = $part + ['', '', '', '9100'];
            $right = $inner === '' ? !preg_match('{^(\d+|tcp|tls|unix)$}D', $host) : self::isIPv6($inner);
            if ($found && $right && $port > 0 && $port < 65536) {
                return (strtolower($kind) === 'tls' ? 'tls' : 'tcp') . "://$host:$port";
            }
        }
        throw new InvalidArgumentException("'$address' is no address: expected HOST, HOST:PORT, tcp:HOST:PORT, tls:HOST:PORT or unix:PATH");
    }

    private static function isIPv6(string $host): bool
    {
        return filter_var(preg_replace('{%\w+$}', '', $host), FILTER_VALIDATE_IP, FILTER_FLAG_IPV6) !== false;
    }

    private function settle(int $type, PhpmqDelivery $message, array $packets = []): bool
    {
        if ($this->stream === null || $message->connection !== $this->connection) {
            return false;
        }
        try {
            $this->request($type, [self::ID => $message->id] + $packets, self::now() + $this->timeout);
            return true;
        } catch (PhpmqUnreachable $error) {
            return false;
        } catch (PhpmqRefused $error) {
            if ($error->reason === 'unknown-id') {
                return false;
            }
            throw $error;
        }
    }

    /** Ask, and wait for the answer: the packets of the receipt. */
    private function request(int $type, array $packets, float $until): array
    {
        $this->connect($until);
        $tag = ++$this->tags;
        $this->outgoing .= self::frame($type, $packets + [self::TAG => (string) $tag]);
        while (!isset($this->answers[$tag])) {
            if (!$this->exchange($until)) {
                $this->lost('does not answer');
            }
        }
        $answer = $this->answers[$tag];
        unset($this->answers[$tag]);
        if ($answer instanceof PhpmqRefused) {
            throw $answer;
        }
        return $answer;
    }

    private function connect(float $until): void
    {
        if ($this->stream !== null) {
            return;
        }
        $stream = @stream_socket_client($this->target, $number, $reason, max(0.001, $until - self::now()));
        if ($stream === false) {
            throw new PhpmqUnreachable("the server at $this->address cannot be reached: $reason");
        }
        stream_set_blocking($stream, false);
        stream_set_read_buffer($stream, 0);
        $this->stream = $stream;
        $this->connection++;
        $this->heard = self::now();
        // Once a hello has told the version, the server can say what is wrong with the next frame, even if it cannot read it.
        $this->outgoing = self::frame(self::HELLO, [self::TAG => 'hello']) . implode('', $this->consumes);
    }

    /** Write what the server takes, read what it says, or wait for either. False if that time has come. */
    private function exchange(float $until): bool
    {
        $left = max(0.0, $until - self::now());
        $read = [$this->stream];
        $write = $this->outgoing === '' ? null : [$this->stream];
        $except = null;
        if (!@stream_select($read, $write, $except, (int) $left, (int) (fmod($left, 1.0) * 1000000))) {
            // A signal may have come in between.
            return self::now() < $until;
        }
        if ($read) {
            $data = @fread($this->stream, 65536);
            if ($data === false || ($data === '' && feof($this->stream))) {
                $this->lost('closed the connection');
            }
            $this->incoming .= $data;
            $this->heard = self::now();
            $this->takeFrames();
        }
        if ($write) {
            $count = @fwrite($this->stream, substr($this->outgoing, $this->written, 65536));
            // If the server hung up, what it said before is still to be read.
            $this->written = $count === false ? strlen($this->outgoing) : $this->written + $count;
            if ($this->written === strlen($this->outgoing)) {
                $this->outgoing = '';
                $this->written = 0;
            }
        }
        return true;
    }

    private function lost(string $what): void
    {
        $this->close();
        throw new PhpmqUnreachable("the server at $this->address $what");
    }

    private function takeFrames(): void
    {
        while (($end = $this->endOfFrame()) !== null) {
            $at = $this->read;
            $type = (int) substr($this->incoming, $at + 3, 3);
            $packets = [];
            for ($at += 8; $at < $end; $at += 32 + $length) {
                $length = (int) substr($this->incoming, $at + 3, 29);
                $packets[(int) substr($this->incoming, $at + 1, 2)] = substr($this->incoming, $at + 32, $length);
            }
            $this->read = $end;
            $this->take($type, $packets);
        }
        $this->incoming = substr($this->incoming, $this->read);
        $this->read = 0;
    }

    /** Where the next frame ends, null if it is not there as a whole. */
    private function endOfFrame(): ?int
    {
        $size = strlen($this->incoming);
        $at = $this->read;
        if ($size - $at < 8) {
            return null;
        }
        if (substr($this->incoming, $at, 3) !== 'H02') {
            $this->lost('does not speak version 02 of the protocol');
        }
        $count = (int) substr($this->incoming, $at + 6, 2);
        for ($at += 8; $count > 0 && $size - $at >= 32; $count--) {
            $at += 32 + (int) substr($this->incoming, $at + 3, 29);
        }
        return $count === 0 && $at <= $size ? $at : null;
    }

    private function take(int $type, array $packets): void
    {
        if ($type === self::DELIVER) {
            $this->deliveries[] = $this->delivery($packets);
        } elseif ($type === self::RECEIPT) {
            $this->answers[$packets[self::TAG]] = $packets;
        } elseif ($type === self::REFUSED) {
            $error = new PhpmqRefused($packets[self::CODE], $packets[self::REASON]);
            if (!isset($packets[self::TAG])) {
                $this->close();
                throw $error;
            }
            $this->answers[$packets[self::TAG]] = $error;
        } elseif ($type === self::DRAINING) {
            // The server is about to stop, and has taken back what it delivered.
            $this->deliveries = [];
        }
    }

    private function delivery(array $packets): PhpmqDelivery
    {
        $delivery = new PhpmqDelivery();
        $delivery->queue = $packets[self::QUEUE];
        $delivery->body = $packets[self::CONTENT];
        $delivery->id = $packets[self::ID];
        $delivery->attempts = (int) $packets[self::ATTEMPTS];
        $delivery->ttl = (float) ($packets[self::TTL] ?? 0);
        $delivery->headers = json_decode($packets[self::HEADERS] ?? '{}', true);
        $delivery->connection = $this->connection;
        return $delivery;
    }

    private static function frame(int $type, array $packets): string
    {
        $frame = sprintf('H02%03d%02d', $type, count($packets));
        foreach ($packets as $kind => $content) {
            $frame .= sprintf('P%02d%029d', $kind, strlen($content)) . $content;
        }
        return $frame;
    }

    private static function seconds(int $kind, float $seconds): array
    {
        return $seconds > 0 ? [$kind => sprintf('%.3F', $seconds)] : [];
    }

    /** Seconds of a clock that nobody sets. */
    private static function now(): float
    {
        return hrtime(true) / 1e9;
    }
}
