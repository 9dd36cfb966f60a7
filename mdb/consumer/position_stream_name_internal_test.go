package consumer

import "testing"

// TestPositionStreamName checks the names of streams: those of the tests of Eventide's position store, and others by its rule.
func TestPositionStreamName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ category, id, want string }{
		{"someCategory", "", "someCategory:position"},
		{"someCategory", "someIdentifier", "someCategory:position-someIdentifier"},
		{"someCategory:someType", "", "someCategory:someType+position"},
		{"someCategory:position", "", "someCategory:position"},
		{"account:command", "mailer-1+a", "account:command+position-mailer-1+a"},
		{"account:a+b", "x", "account:a+b+position-x"},
		{"account:position+a", "x", "account:position+a-x"},
		{"account:", "x", "account:position-x"},
		{"account:a:b", "x", "account:a+position-x"},
		{"account::a", "x", "account:position-x"},
		{"account:a++b+", "x", "account:a++b+position-x"},
		{":a", "x", ":a+position-x"},
	} {
		if got := positionStreamOf(tt.category, tt.id); got != tt.want {
			t.Errorf("%s with id %q: got %s, want %s", tt.category, tt.id, got, tt.want)
		}
	}
}

// TestPositionData checks which messages are positions.
func TestPositionData(t *testing.T) {
	t.Parallel()
	if got := positionData(1 << 60); got != `{"position": 1152921504606846976}` {
		t.Errorf("got %s", got)
	}
	for _, tt := range []struct {
		typ, data string
		want      int64 // -1: an error
	}{
		{"Recorded", `{"position": 11}`, 11},
		{"Recorded", `{"position": 9223372036854775807, "other": 1}`, 9223372036854775807},
		{"Recorded", `{"position": 0}`, 0},
		{"Recorded", `{"position": -1}`, -1},
		{"Recorded", `{"position": 1.5}`, -1},
		{"Recorded", `{"position": "1"}`, -1},
		{"Recorded", `{"position": null}`, -1},
		{"Recorded", `{}`, -1},
		{"Recorded", `7`, -1},
		{"Recorded", ``, -1},
		{"PositionCommitted", `{"position": 11}`, -1},
	} {
		if got, err := parsePosition(tt.typ, tt.data); (err != nil) != (tt.want < 0) || err == nil && got != tt.want {
			t.Errorf("%s %s: got %d, %v", tt.typ, tt.data, got, err)
		}
	}
}
