package mdb

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
)

// TestPrintedSize checks how long PostgreSQL's text of JSON is.
func TestPrintedSize(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), testdb.Shared(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	for _, raw := range []string{
		`null`, `true`, `[]`, `{}`, ` [ ] `, `""`, `"a\"b\\"`, `"\\"`, `"\\\""`, `["\\",1e2]`, `{"e":"1e999","1e5":[]}`,
		`[1,2,3]`, "[ 1 ,\n2\t,\r3 ]", `{"a":1,"b":{"c":[{},[]]}}`,
		`0`, `-1`, `10`, `1.50`, `-0.1`, `1e0`, `1E5`, `1e+5`, `-1e5`, `-1e-5`, `1.25e1`, `1.25e2`, `1.25e3`, `1.25e-3`, `125e-2`, `100e-2`, `100e-5`,
		`0e5`, `0.0e5`, `0.00e1`, `0e-5`, `0.1e1`, `0.001e2`, `0.001e3`, `0.001e5`, `0.0012e3`, `0.1e-1`,
		`1e131071`, `[1e131071,-1e131071]`, `10e131070`, `0.01e131073`, `1e-16383`, `0e-16383`, `0e131071`, `0e200000`, `1.5e-16382`, `0.0e99999999`,
	} {
		var want int
		if err := conn.QueryRow(t.Context(), `SELECT octet_length($1::text::jsonb::text)`, raw).Scan(&want); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if got := printedSize([]byte(raw)); got != want {
			t.Errorf("%s: got %d bytes, want %d", raw, got, want)
		}
		if most := len(raw) * printedGrowth; want > most {
			t.Errorf("%s: it grows to %d bytes, more than the %d that are taken as the most", raw, want, most)
		}
	}
	// The server rejects these.
	for _, raw := range []string{`1e131072`, `10e131071`, `1e-16384`, `0e-16384`, `1.5e-16383`, `1e200000`, `1e-200000`, `1e99999999999999999999`, `1e-99999999999999999999`} {
		if got := printedSize([]byte(raw)); got != len(raw) {
			t.Errorf("%s: got %d bytes, want its length", raw, got)
		}
		var text string
		if err := conn.QueryRow(t.Context(), `SELECT $1::text::jsonb::text`, raw).Scan(&text); err == nil {
			t.Errorf("%s is accepted", raw)
		}
	}

	// And no random JSON is longer.
	const n = 2000
	random := rand.New(rand.NewPCG(1, 2))
	texts := make([]string, n)
	for i := range texts {
		texts[i] = randomJSON(random, 4)
		if !json.Valid([]byte(texts[i])) {
			t.Fatalf("%s is not valid", texts[i])
		}
	}
	rows, _ := conn.Query(t.Context(), `SELECT octet_length(raw::jsonb::text) FROM unnest($1::text[]) WITH ORDINALITY AS t(raw, i) ORDER BY i`, texts)
	sizes, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	longer := 0
	for i, size := range sizes {
		if got := printedSize([]byte(texts[i])); got < size {
			t.Errorf("%s: got %d bytes, but it is printed as %d", texts[i], got, size)
		}
		if size > len(texts[i]) {
			longer++
		}
	}
	if longer < n/10 {
		t.Errorf("only %d of %d texts grow", longer, n)
	}
}

// randomJSON returns JSON of up to the given depth, with random white space, escapes and
// repeated keys.
func randomJSON(random *rand.Rand, depth int) string {
	pick := func(choices ...string) string { return choices[random.IntN(len(choices))] }
	space := func() string { return strings.Repeat(pick(" ", "\n", "\t"), max(0, random.IntN(4)-2)) }
	str := func() string {
		var b strings.Builder
		for range random.IntN(5) {
			b.WriteString(pick("a", "é", `\u00e9`, `\"`, `\\`, `\/`, `\n`, `\u0001`, `\ud83d\ude42`, "🙂", "1e5", ",", ":", " ", `\u003c`, "\x7f", "{", "]"))
		}
		return `"` + b.String() + `"`
	}
	number := func() string {
		text := pick("", "-") + pick("0", "1", "12", "100", "9007199254740993") + pick("", "", ".0", ".001", ".100", ".000")
		if random.IntN(3) == 0 {
			text += pick("e", "E") + pick("", "+", "-") + pick("0", "1", "2", "10", "307", "0005", fmt.Sprint(random.IntN(2000)))
		}
		return text
	}
	inner := func() string { return space() + randomJSON(random, depth-1) + space() }
	var items []string
	switch choice := random.IntN(6); {
	case choice == 0:
		return pick("null", "true", "false")
	case choice == 1:
		return str()
	case choice == 2 || depth == 0:
		return number()
	case choice == 3:
		for range random.IntN(4) {
			items = append(items, space()+str()+space()+":"+inner())
		}
		return "{" + strings.Join(items, ",") + space() + "}"
	}
	for range random.IntN(5) {
		items = append(items, inner())
	}
	return "[" + strings.Join(items, ",") + space() + "]"
}

// BenchmarkPrintedSize compares the measure with the check that each JSON goes through.
func BenchmarkPrintedSize(b *testing.B) {
	for name, item := range map[string]string{
		"texts":   `{"id":"0193f2d0-7b5e-7c3e-8a41-0e5d9e7f1234","name":"A name, of some length: with an e","done":true},`,
		"numbers": `12,3.25,-7,1000000,`,
	} {
		raw := []byte("[" + strings.Repeat(item, 1000) + "0]")
		b.Run(name+"/measure", func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				printedSize(raw)
			}
		})
		b.Run(name+"/valid", func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				json.Valid(raw)
			}
		})
	}
}
