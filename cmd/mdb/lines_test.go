package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
)

// FuzzReadLines checks that readLines never changes text that it accepts: what it returns
// is in the input, and it never puts the replacement character where the input has none.
func FuzzReadLines(f *testing.F) {
	for _, input := range []string{
		`{"type": "Opened"} {"type": "Deposited", "data": {"a": 1}, "metadata": null}`,
		"{\"type\": \"caf\xe9\"}", `{"type": "\ud800"}`, `{"type": "\ud83d\ude00\\ud800"}`, `{"type": "\uFFFD"}`,
		`{"type": "a", "type": "b"}`, `{"Type": "a"}`, "\xef\xbb\xbf{}", "{\x00\"\x00", `{"type": "a", "time": "2026-11-28T04:00:00", "data": "{}"}`,
	} {
		f.Add(input)
	}
	first := uuid.MustParse("01933b8e-0000-7000-8000-000000000000")
	f.Fuzz(func(t *testing.T, input string) {
		messages, err := (&writing{firstID: first}).readLines(strings.NewReader(input))
		if err != nil {
			if messages != nil {
				t.Errorf("%d messages and an error", len(messages))
			}
			return
		}
		replaced := strings.Contains(input, "\uFFFD") || strings.Contains(strings.ToLower(input), `\ufffd`)
		ids := make(map[uuid.UUID]bool)
		for _, m := range messages {
			if !utf8.ValidString(m.Type) || m.Type == "" || strings.Contains(m.Type, "\uFFFD") && !replaced {
				t.Errorf("type %q", m.Type)
			}
			for _, value := range []any{m.Data, m.Metadata} {
				if raw, ok := value.(json.RawMessage); ok && (!utf8.Valid(raw) || !strings.Contains(input, string(raw))) {
					t.Errorf("data or metadata %q, which is not in the input", raw)
				}
			}
			if strings.Contains(input, m.ID.String()) {
				continue
			}
			if ids[m.ID] {
				t.Errorf("ID %s twice", m.ID)
			}
			ids[m.ID] = true
		}
		if len(messages) > 0 && !utf8.ValidString(input) {
			t.Errorf("input that is not UTF-8 was accepted")
		}
	})
}

// TestNthID checks that IDs that follow a first one differ, and keep its version and
// variant, up to the last one that there is.
func TestNthID(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"01933b8e-0000-7000-8000-000000000000", "01933b8e-0000-7000-bfff-ffffffffffff", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"} {
		id := uuid.MustParse(first)
		seen := make(map[uuid.UUID]bool)
		for n := range 1000 {
			next := nthID(id, n)
			if seen[next] || next.Version() != id.Version() || next.Variant() != id.Variant() || n == 0 && next != id {
				t.Errorf("ID %d after %s is %s", n, first, next)
			}
			seen[next] = true
		}
	}
}
