package main

import "testing"

// TestWaitedFor checks that known names are sorted and cut, and that the others are counted.
func TestWaitedFor(t *testing.T) {
	t.Parallel()
	names := map[int32][]string{1: {"order"}, -2: {"account"}, 3: {"mail", "stock"}, 4: {"a\nb\x1b"}}
	for _, test := range []struct {
		keys []int32
		most int
		want string
	}{
		{[]int32{1}, 0, "order"},
		{[]int32{5, 1, 6, -2}, 0, "account, order, 2 unknown"},
		{[]int32{5, 6}, 1, "2 unknown"},
		{[]int32{1, 3, -2, 4}, 0, `a\u000ab\u001b, account, mail or stock, order`},
		{[]int32{1, 3, -2, 4}, 4, `a\u000ab\u001b, account, mail or stock, order`},
		{[]int32{1, 3, -2, 4}, 3, `a\u000ab\u001b, account, mail or stock, 1 more`},
		{[]int32{1, 3, -2, 4, 5}, 1, `a\u000ab\u001b, 3 more, 1 unknown`},
	} {
		if got := waitedFor(test.keys, names, test.most); got != test.want {
			t.Errorf("%d of %d: %s, want %s", test.most, test.keys, got, test.want)
		}
	}
}
