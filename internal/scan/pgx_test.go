package scan_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// FuzzAgainstPgx checks that each type is decoded exactly as pgx decodes the same
// bytes. The deliberate differences:
//
//   - A uuid's text: pgx also accepts 32 digits without hyphens, and any bytes in
//     place of the hyphens. PostgreSQL writes one form only, and any other means
//     that the column is not a uuid.
//   - A timestamp's text: pgx also accepts years of 7 digits with leading zeros
//     and rounds fractions of more than 6 digits. The server writes neither.
//   - An infinite timestamp: pgx has a marker beside the time and rejects a scan
//     into a time.Time. Here it is a time beyond all finite ones.
func FuzzAgainstPgx(f *testing.F) {
	for kind := range uint8(len(kinds)) {
		for _, binary := range []bool{false, true} {
			for _, src := range []string{
				"", "\x01", "\x01{}", "{}", "null", "0", "-1", "+5", "007", "9223372036854775807", "9223372036854775808",
				"\x00\x00\x00\x00\x00\x00\x00\x07", "\x7f\xff\xff\xff\xff\xff\xff\xff", "\x80\x00\x00\x00\x00\x00\x00\x00",
				"0b5d4a2e-6a3c-4d0e-9a52-0d1f3c8e7b61", "0B5D4A2E6A3C4D0E9A520D1F3C8E7B61", "0b5d4a2e_6a3c_4d0e_9a52_0d1f3c8e7b61",
				"2026-11-23 14:49:44.123456", "2026-11-23 14:49:44.1234565", "294276-12-31 23:59:59.999999", "0294276-12-31 23:59:59",
				"4714-11-24 00:00:00 BC", "0001-02-29 00:00:00 BC", "2026-02-29 00:00:00", "infinity", "-infinity", "2026-11-23 14:49:44+00",
			} {
				f.Add(kind, binary, []byte(src), int64(len(src)))
			}
			for _, n := range []int64{0, -1, math.MaxInt64, math.MinInt64, -211813488000_000000, 9223371331199_999999} {
				f.Add(kind, binary, testID[:], n)
			}
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, binary bool, src []byte, n int64) {
		if src == nil {
			src = []byte{}
		}
		k := &kinds[int(kind)%len(kinds)]
		format := int16(textFmt)
		if binary {
			format = binaryFmt
		}
		m := pgtype.NewMap()

		compare(t, m, k, format, src)
		// With a nil buffer pgx would return an empty text as NULL.
		encoded, err := m.Encode(k.oid, format, k.value(src, n), []byte{})
		if err != nil {
			t.Fatalf("%s: pgx does not encode: %v", k.name, err)
		}
		if !compare(t, m, k, format, encoded) {
			t.Fatalf("%s: %q, encoded by pgx, is rejected", k.name, encoded)
		}
	})
}

// kind is one of a message's columns in one of its types.
type kind struct {
	name   string
	column int
	oid    uint32
	pgx    func(m *pgtype.Map, format int16, src []byte) (any, error)
	row    func(scan.Row) any
	value  func(src []byte, n int64) any // to encode by pgx
	differ func(src []byte) bool         // reports whether only pgx accepts src, by the list above
}

var kinds = []kind{
	{
		name: "uuid", column: colID, oid: uuidOID,
		pgx: func(m *pgtype.Map, format int16, src []byte) (any, error) {
			var v pgtype.UUID
			err := m.Scan(uuidOID, format, src, &v)
			return uuid.UUID(v.Bytes), err
		},
		row: func(r scan.Row) any { return r.ID },
		value: func(src []byte, n int64) any {
			v := pgtype.UUID{Valid: true}
			copy(v.Bytes[:], src)
			return v
		},
		differ: looseUUID,
	},
	{
		name: "id of varchar", column: colID, oid: varcharOID,
		pgx: func(m *pgtype.Map, format int16, src []byte) (any, error) {
			var s string
			if err := m.Scan(varcharOID, format, src, &s); err != nil {
				return nil, err
			}
			var v pgtype.UUID
			err := v.Scan(s)
			return uuid.UUID(v.Bytes), err
		},
		row: func(r scan.Row) any { return r.ID },
		value: func(src []byte, n int64) any {
			var id uuid.UUID
			copy(id[:], src)
			return id.String()
		},
		differ: looseUUID,
	},
	{name: "varchar", column: colStream, oid: varcharOID, pgx: pgxString(varcharOID), row: func(r scan.Row) any { return r.Stream }, value: toString},
	{name: "text", column: colType, oid: textOID, pgx: pgxString(textOID), row: func(r scan.Row) any { return r.Type }, value: toString},
	{name: "position", column: colPosition, oid: int8OID, pgx: pgxInt64, row: func(r scan.Row) any { return r.Position }, value: toInt64},
	{name: "global position", column: colGlobalPosition, oid: int8OID, pgx: pgxInt64, row: func(r scan.Row) any { return r.GlobalPosition }, value: toInt64},
	{name: "data of varchar", column: colData, oid: varcharOID, pgx: pgxBytes(varcharOID), row: func(r scan.Row) any { return string(r.Data) }, value: toString},
	{name: "data of json", column: colData, oid: jsonOID, pgx: pgxBytes(jsonOID), row: func(r scan.Row) any { return string(r.Data) }, value: toString},
	{name: "metadata of jsonb", column: colMetadata, oid: jsonbOID, pgx: pgxBytes(jsonbOID), row: func(r scan.Row) any { return string(r.Metadata) }, value: toString},
	{
		name: "timestamp", column: colTime, oid: timestampOID,
		pgx: func(m *pgtype.Map, format int16, src []byte) (any, error) {
			var v pgtype.Timestamp
			err := m.Scan(timestampOID, format, src, &v)
			return timeOf(v), err
		},
		row: func(r scan.Row) any { return r.Time },
		value: func(src []byte, n int64) any {
			v := pgtype.Timestamp{Valid: true}
			switch n {
			case math.MaxInt64:
				v.InfinityModifier = pgtype.Infinity
			case math.MinInt64:
				v.InfinityModifier = pgtype.NegativeInfinity
			default:
				// n/2 is in the range of timestamps for every n.
				n = max(n, -211813488000_000000)
				v.Time = time.Unix(946684800+n/2/1e6, n/2%1e6*1e3).UTC()
			}
			return v
		},
		differ: func(src []byte) bool {
			year, _, _ := strings.Cut(string(src), "-")
			_, fraction, _ := strings.Cut(strings.TrimSuffix(string(src), " BC"), ".")
			return len(year) == 7 || len(fraction) > 6
		},
	},
}

// looseUUID reports whether src is a form that pgx accepts and PostgreSQL never writes.
func looseUUID(src []byte) bool {
	return len(src) == 32 || len(src) == 36 && (src[8] != '-' || src[13] != '-' || src[18] != '-' || src[23] != '-')
}

func pgxString(oid uint32) func(*pgtype.Map, int16, []byte) (any, error) {
	return func(m *pgtype.Map, format int16, src []byte) (any, error) {
		var v string
		err := m.Scan(oid, format, src, &v)
		return v, err
	}
}

func pgxBytes(oid uint32) func(*pgtype.Map, int16, []byte) (any, error) {
	return func(m *pgtype.Map, format int16, src []byte) (any, error) {
		var v []byte
		err := m.Scan(oid, format, src, &v)
		return string(v), err
	}
}

func pgxInt64(m *pgtype.Map, format int16, src []byte) (any, error) {
	var v int64
	err := m.Scan(int8OID, format, src, &v)
	return v, err
}

func toString(src []byte, n int64) any { return string(src) }

func toInt64(src []byte, n int64) any { return n }

// timeOf returns the time by which a page represents pgx's infinity modifier.
func timeOf(v pgtype.Timestamp) time.Time {
	switch v.InfinityModifier {
	case pgtype.Infinity:
		return time.Date(294277, 1, 9, 4, 0, 54, 775807000, time.UTC)
	case pgtype.NegativeInfinity:
		return time.Date(-290278, 12, 22, 19, 59, 5, 224192000, time.UTC)
	}
	return v.Time
}

// compare reports whether src was accepted.
func compare(t *testing.T, m *pgtype.Map, k *kind, format int16, src []byte) bool {
	t.Helper()
	cols, row := messageColumns(textFmt), textRow()
	cols[k.column].oid, cols[k.column].format = k.oid, format
	row[k.column] = src

	want, wantErr := k.pgx(m, format, src)
	p := scan.NewPage()
	defer p.Release()
	if err := begin(p, cols); err != nil {
		t.Fatal(err)
	}
	switch err := p.Add(row); {
	case err != nil && wantErr == nil:
		if k.differ == nil || !k.differ(src) {
			t.Fatalf("%s, format %d: %q: %v, but pgx returns %v", k.name, format, src, err, want)
		}
		return false
	case err == nil && wantErr != nil:
		t.Fatalf("%s, format %d: %q is accepted, but pgx returns the error %v", k.name, format, src, wantErr)
	case err != nil:
		return false
	}
	if got := k.row(p.Row(0)); got != want {
		t.Fatalf("%s, format %d: %q is %v, want pgx's %v", k.name, format, src, got, want)
	}
	return true
}
