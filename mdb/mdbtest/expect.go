package mdbtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/messagedb-go/messagedb/internal/encode"
	"github.com/messagedb-go/messagedb/mdb"
)

// Expect reports an error unless the stream contains exactly these messages, in this order.
// The error shows the difference, message by message, with the data as JSON.
//
// Messages are the same if their types and data are equal, and also their metadata, unless
// the wanted message has none. IDs and times do not matter. Data and metadata are compared
// as JSON values, in which numbers such as 10, 10.0 and 1e1 are equal; nil is SQL NULL, as in
// a write.
func Expect(t testing.TB, s *mdb.Store, stream mdb.StreamName, want ...mdb.ProposedMessage) {
	t.Helper()
	wanted := make([]content, len(want))
	for i, m := range want {
		var err error
		if wanted[i], err = proposed(m); err != nil {
			t.Fatalf("mdbtest: Expect: message %d: %v", i, err)
		}
	}
	var got []content
	for m, err := range s.StreamMessages(t.Context(), stream) {
		if err != nil {
			t.Fatalf("mdbtest: Expect: %v", err)
		}
		c, err := stored(m)
		if err != nil {
			t.Fatalf("mdbtest: Expect: %s/%d: %v", stream, m.Position, err)
		}
		got = append(got, c)
	}
	if text, same := compare(wanted, got); !same {
		t.Errorf("stream %s does not contain the expected messages (- missing, + unexpected):\n%s", stream, text)
	}
}

// A content is what Expect compares of a message, as JSON for people. The keys are equal if
// the values are. Metadata is empty if it is SQL NULL.
type content struct {
	text                  string // without metadata
	key                   string // of type and data
	metadata, metadataKey string
}

func (c content) matches(want content) bool {
	return c.key == want.key && (want.metadata == "" || c.metadataKey == want.metadataKey)
}

func proposed(m mdb.ProposedMessage) (content, error) {
	data, err := encode.JSON(m.Data)
	if err != nil {
		return content{}, fmt.Errorf("data: %w", err)
	}
	metadata, err := encode.JSON(m.Metadata)
	if err != nil {
		return content{}, fmt.Errorf("metadata: %w", err)
	}
	return newContent(m.Type, data, metadata)
}

func stored(m mdb.Message) (content, error) {
	return newContent(m.Type, m.Data, m.Metadata)
}

func newContent(typ string, data, metadata json.RawMessage) (c content, err error) {
	text, key, err := normalize(data)
	if err != nil {
		return c, fmt.Errorf("data: %w", err)
	}
	c.text, c.key = strings.TrimRight(typ+"  "+text, " "), typ+"\n"+key
	if c.metadata, c.metadataKey, err = normalize(metadata); err != nil {
		return c, fmt.Errorf("metadata: %w", err)
	}
	return c, nil
}

// normalize returns JSON with its keys sorted, once for people and once with numbers in a
// form in which equal ones are the same. Both are empty for SQL NULL.
func normalize(raw json.RawMessage) (text, key string, err error) {
	if raw == nil {
		return "", "", nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return "", "", err
	}
	if text, err = marshal(v); err != nil {
		return "", "", err
	}
	key, err = marshal(exact(v))
	return text, key, err
}

func marshal(v any) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSpace(b.String()), err
}

// exact replaces the numbers in a decoded value by fractions in lowest terms, in an array
// so that they differ from strings.
func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		if r, ok := new(big.Rat).SetString(v.String()); ok {
			return []string{"number", r.RatString()}
		}
		return []string{"number", v.String()} // too large for PostgreSQL, too
	case []any:
		array := []any{"array"}
		for _, element := range v {
			array = append(array, exact(element))
		}
		return array
	case map[string]any:
		object := maps.Clone(v)
		for name, element := range object {
			object[name] = exact(element)
		}
		return object
	}
	return v
}

// shown is the number of equal messages that compare shows before the first difference.
const shown = 3

// compare returns both lists as one, with their differences marked: the longest list that
// is in both stays unmarked.
func compare(want, got []content) (text string, same bool) {
	equal := 0
	for equal < min(len(want), len(got)) && got[equal].matches(want[equal]) {
		equal++
	}
	if equal == len(want) && equal == len(got) {
		return "", true
	}
	start := max(0, equal-shown)
	want, got = want[start:], got[start:]

	// common[i][j] is the length of the longest list in both want[i:] and got[j:].
	common := make([][]int, len(want)+1)
	for i := range common {
		common[i] = make([]int, len(got)+1)
	}
	for i, w := range slices.Backward(want) {
		for j, g := range slices.Backward(got) {
			if g.matches(w) {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}

	var b strings.Builder
	if start > 0 {
		fmt.Fprintf(&b, "  (%d equal messages)\n", start)
	}
	for i, j := 0, 0; i < len(want) || j < len(got); {
		switch {
		case i < len(want) && j < len(got) && got[j].matches(want[i]):
			fmt.Fprintln(&b, " ", got[j].line(want[i].metadata != ""))
			i, j = i+1, j+1
		case j == len(got) || i < len(want) && common[i+1][j] >= common[i][j+1]:
			fmt.Fprintln(&b, "-", want[i].line(true))
			i++
		default:
			fmt.Fprintln(&b, "+", got[j].line(true))
			j++
		}
	}
	return b.String(), false
}

func (c content) line(withMetadata bool) string {
	if withMetadata && c.metadata != "" {
		return c.text + "  metadata " + c.metadata
	}
	return c.text
}
