package main

import (
	"errors"
	"testing"
)

// TestVerdicts checks what counts as a mutant that is caught: a test that fails, and that passes without it.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	failed := errors.New("exit status 1")
	for name, test := range map[string]struct {
		verdict func(text string, err error) error
		text    string
		err     error
		want    bool
	}{
		"passes without the mutant":  {passes, "ok  \tp\t0.1s", nil, true},
		"matches nothing":            {passes, "ok  \tp\t0.1s [no tests to run]", nil, false},
		"fails without the mutant":   {passes, "--- FAIL: TestX", failed, false},
		"fails":                      {notices, "--- FAIL: TestX", failed, true},
		"panics":                     {notices, "panic: a fault", failed, true},
		"passes with the mutant":     {notices, "ok  \tp\t0.1s", nil, false},
		"does not compile":           {notices, "FAIL\tp [build failed]", failed, false},
		"does not end":               {notices, "panic: test timed out after 2m0s", failed, false},
		"ends for no visible reason": {notices, "signal: killed", failed, false},
	} {
		if err := test.verdict(test.text, test.err); (err == nil) != test.want {
			t.Errorf("%s: got %v, want nil: %t", name, err, test.want)
		}
	}
}
