package scan

import (
	"errors"
	"time"

	"github.com/google/uuid"
)

// A Place identifies a message: where it is, its ID, and when it was written.
type Place struct {
	Position, GlobalPosition int64
	ID                       uuid.UUID
	Micros                   int64 // since 2000
}

// Place decodes what identifies the message of a row, and ignores the rest of the row. The
// columns must be described. It copies nothing into the page.
func (p *Page) Place(values [][]byte) (place Place, err error) {
	if err := checkCount(len(values)); err != nil {
		return place, err
	}
	if p.described != 1<<numColumns-1 {
		return place, errors.New("row read before all columns were described")
	}
	var ok bool
	if place.Position, ok = decodeInt8(values[colPosition], p.binary[colPosition]); !ok {
		return place, p.malformed(colPosition, values[colPosition])
	}
	if place.GlobalPosition, ok = decodeInt8(values[colGlobalPosition], p.binary[colGlobalPosition]); !ok {
		return place, p.malformed(colGlobalPosition, values[colGlobalPosition])
	}
	if place.ID, ok = decodeUUID(values[colID], p.binary[colID]); !ok {
		return place, p.malformed(colID, values[colID])
	}
	if place.Micros, ok = decodeTimestamp(values[colTime], p.binary[colTime]); !ok {
		return place, p.malformed(colTime, values[colTime])
	}
	return place, nil
}

// Triple decodes a position, an ID and a time. A column's format is 0 for text or 1 for
// binary.
func Triple(oids [3]uint32, formats [3]int16, values [][]byte) (position int64, id uuid.UUID, micros int64, err error) {
	binary := func(i int) bool { return formats[i] == binaryFormat && hasBinaryForm(oids[i]) }
	var ok bool
	if position, ok = decodeInt8(values[0], binary(0)); !ok {
		return 0, id, 0, errors.New("a position cannot be decoded")
	}
	if id, ok = decodeUUID(values[1], binary(1)); !ok {
		return 0, id, 0, errors.New("an ID cannot be decoded")
	}
	if micros, ok = decodeTimestamp(values[2], binary(2)); !ok {
		return 0, id, 0, errors.New("a time cannot be decoded")
	}
	return position, id, micros, nil
}

// Micros returns the number of microseconds since 2000 of a time that Row returned.
func Micros(t time.Time) int64 {
	return (t.Unix()-epoch)*microsPerSecond + int64(t.Nanosecond())/1000
}

// Time is the inverse of Micros.
func Time(micros int64) time.Time { return timeOf(micros) }
