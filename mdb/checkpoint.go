package mdb

import (
	"database/sql/driver"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"

	"github.com/messagedb-go/messagedb/internal/source"
)

// A CategoryCheckpoint is where a subscription to a category can be resumed. [OnProgress]
// receives one, and [AfterCheckpoint] starts after it. The zero value is the beginning of any
// category. Checkpoints are values: copy them freely.
//
// Store its text, for example in a column of type text. String returns it, UnmarshalText parses
// it, and encoding/json, database/sql and pgx use it. It has at most 830 bytes, usually less than
// 500, plus 4/3 of the length of the category's name. It begins with the position, and consists
// of letters, digits, colons, dashes and underscores. The zero value's text is empty.
//
// Besides the position of the last handled message, a checkpoint contains that message's ID and
// time, and those of up to 16 earlier messages, the farther back the farther apart. From them the
// subscription knows whether the store has lost messages that were handled, see [OnFork].
type CategoryCheckpoint struct{ namedCheckpoint }

// A StreamCheckpoint is where a subscription to a stream can be resumed. [OnStreamProgress]
// receives one, and [AfterStreamCheckpoint] starts after it. It is like a
// [CategoryCheckpoint], with positions in the stream.
type StreamCheckpoint struct{ namedCheckpoint }

// A namedCheckpoint is the checkpoint of the category or stream with the name. The zero value
// has no name.
type namedCheckpoint struct {
	name string
	at   checkpoint
}

// The kinds of checkpoints, with the version of their texts.
const (
	categoryKind = "c1"
	streamKind   = "s1"
)

// Position returns the global position up to which messages are handled, or 0 if none is.
func (c CategoryCheckpoint) Position() int64 { return c.at.Position }

// Position returns the position in the stream up to which messages are handled, or
// [NoStream] if none is.
func (c StreamCheckpoint) Position() int64 {
	if c.name == "" {
		return NoStream
	}
	return c.at.Position
}

// String returns the checkpoint's text, which UnmarshalText parses.
func (c CategoryCheckpoint) String() string { return c.text(categoryKind) }

// String returns the checkpoint's text, which UnmarshalText parses.
func (c StreamCheckpoint) String() string { return c.text(streamKind) }

// MarshalText implements [encoding.TextMarshaler]. It never fails.
func (c CategoryCheckpoint) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// MarshalText implements [encoding.TextMarshaler]. It never fails.
func (c StreamCheckpoint) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText parses the text of a CategoryCheckpoint. If that fails, it returns an
// [*ArgumentError] and leaves c unchanged.
func (c *CategoryCheckpoint) UnmarshalText(text []byte) error {
	return c.parse(string(text), categoryKind, "category")
}

// UnmarshalText parses the text of a StreamCheckpoint. If that fails, it returns an
// [*ArgumentError] and leaves c unchanged.
func (c *StreamCheckpoint) UnmarshalText(text []byte) error {
	return c.parse(string(text), streamKind, "stream")
}

// Value implements [driver.Valuer], with the checkpoint's text.
func (c CategoryCheckpoint) Value() (driver.Value, error) { return c.String(), nil }

// Value implements [driver.Valuer], with the checkpoint's text.
func (c StreamCheckpoint) Value() (driver.Value, error) { return c.String(), nil }

// Scan implements [database/sql.Scanner]. NULL is the zero value.
func (c *CategoryCheckpoint) Scan(src any) error { return scanText(src, c.UnmarshalText) }

// Scan implements [database/sql.Scanner]. NULL is the zero value.
func (c *StreamCheckpoint) Scan(src any) error { return scanText(src, c.UnmarshalText) }

func scanText(src any, parse func([]byte) error) error {
	switch v := src.(type) {
	case nil:
		return parse(nil)
	case string:
		return parse([]byte(v))
	case []byte:
		return parse(v)
	}
	return fmt.Errorf("mdb: got a %T for a checkpoint, want a text", src)
}

// After returns the checkpoint after the message, for a handler that stores it in the
// transaction of its effects. c is the checkpoint before the message: the result of After for
// the message that was handled before it, or what the subscription was started with. Messages
// must be handled in their order, so do not use it together with [WithWorkers].
//
// A message that is not later than c replaces what c knows from the message's position on: the
// subscription has gone back after a fork, see [OnFork], or the message is delivered again.
//
// The zero value can be followed by a message of any category. Otherwise After panics if the
// message is of another category.
func (c CategoryCheckpoint) After(m Message) CategoryCheckpoint {
	return CategoryCheckpoint{c.after(string(m.Stream.Category()), m.GlobalPosition, &m)}
}

// After is like [CategoryCheckpoint.After], for a message of a stream.
func (c StreamCheckpoint) After(m Message) StreamCheckpoint {
	return StreamCheckpoint{c.after(string(m.Stream), m.Position, &m)}
}

func (c namedCheckpoint) after(name string, position int64, m *Message) namedCheckpoint {
	if c.name != "" && c.name != name {
		panic(fmt.Sprintf("mdb: got a message of %q after a checkpoint of %q", name, c.name))
	}
	known := c.at.Anchors()
	for len(known) > 0 && known[0].Position >= position {
		known = known[1:]
	}
	message := func(int) anchor { return anchorOf(m, position) }
	return namedCheckpoint{name, source.Known(known).Advance(1, message)}
}

// text returns the position, the kind, and in base64 what the position does not say: the
// name, the anchors, and a checksum of everything.
func (c namedCheckpoint) text(kind string) string {
	if c.name == "" {
		return ""
	}
	head := strconv.FormatInt(c.at.Position, 10) + ":" + kind + ":"
	b := binary.AppendUvarint(nil, uint64(len(c.name)))
	b = append(b, c.name...)
	if kind == allKind {
		b = appendLatest(b, c.at)
	}
	position, micros := c.at.Position, int64(0)
	for _, a := range c.at.Anchors() {
		b = appendAnchor(b, a, position, micros)
		position, micros = a.Position, a.Time
	}
	sum := crc32.Update(crc32.ChecksumIEEE([]byte(head)), crc32.IEEETable, b)
	b = binary.BigEndian.AppendUint32(b, sum)
	return head + base64.RawURLEncoding.EncodeToString(b)
}

func (c *namedCheckpoint) parse(text, kind, of string) error {
	if text == "" {
		*c = namedCheckpoint{}
		return nil
	}
	parsed, err := parseCheckpoint(text, kind)
	if err != nil {
		const most = 40
		given := strconv.Quote(text)
		if len(text) > most {
			given = strconv.Quote(text[:most]) + "…"
		}
		return &ArgumentError{Faults: []Fault{{"checkpoint", given + ", " + err.Error(), "the text of a checkpoint of a " + of}}}
	}
	*c = parsed
	return nil
}

func parseCheckpoint(text, kind string) (c namedCheckpoint, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return c, errors.New("which does not have three parts")
	}
	position, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil || strconv.FormatInt(position, 10) != parts[0] || position < NoStream || kind != streamKind && position < 0 || position == math.MaxInt64 {
		return c, errors.New("which does not begin with a position")
	}
	switch parts[1] {
	case kind:
	case categoryKind:
		return c, errors.New("which is of a category")
	case streamKind:
		return c, errors.New("which is of a stream")
	case allKind:
		return c, errors.New("which is of all categories")
	default:
		return c, errors.New("which is of another version")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(b) < crc32.Size {
		return c, errors.New("which is damaged")
	}
	head := len(text) - len(parts[2])
	b, sum := b[:len(b)-crc32.Size], binary.BigEndian.Uint32(b[len(b)-crc32.Size:])
	if crc32.Update(crc32.ChecksumIEEE([]byte(text[:head])), crc32.IEEETable, b) != sum {
		return c, errors.New("which is damaged")
	}
	if !c.decode(b, position, kind) || c.text(kind) != text {
		return c, errors.New("which is malformed")
	}
	return c, nil
}

func appendAnchor(b []byte, a anchor, position, micros int64) []byte {
	b = binary.AppendUvarint(b, uint64(position-a.Position))
	b = binary.AppendVarint(b, a.Time-micros)
	return append(b, a.ID[:]...)
}

// decodeAnchor decodes the anchor that follows another one, and returns the rest.
func decodeAnchor(b []byte, before anchor) (a anchor, rest []byte, ok bool) {
	distance, n := binary.Uvarint(b)
	if n <= 0 {
		return a, nil, false
	}
	b = b[n:]
	later, n := binary.Varint(b)
	if n <= 0 || len(b) < n+len(a.ID) || before.Position < 0 || distance > uint64(before.Position) {
		return a, nil, false
	}
	a.Position, a.Time = before.Position-int64(distance), before.Time+later
	return a, b[n+copy(a.ID[:], b[n:]):], true
}

// decode decodes the name, the newest messages of categories, and the anchors.
func (c *namedCheckpoint) decode(b []byte, position int64, kind string) bool {
	size, n := binary.Uvarint(b)
	if n <= 0 || size == 0 || size > uint64(len(b)-n) {
		return false
	}
	c.name = string(b[n : n+int(size)])
	b = b[n+int(size):]
	var latest []source.Latest
	if kind == allKind {
		ok := false
		if latest, b, ok = decodeLatest(b, position); !ok {
			return false
		}
	}
	anchors := []anchor(nil)
	for before := (anchor{Position: position}); len(b) > 0; {
		a, rest, ok := decodeAnchor(b, before)
		if !ok || len(anchors) > 0 && a.Position == before.Position {
			return false
		}
		anchors = append(anchors, a)
		before, b = a, rest
	}
	c.at = source.Known(anchors).Past(position).OfLatest(latest)
	return true
}
