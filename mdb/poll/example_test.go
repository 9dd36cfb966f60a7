package poll_test

import (
	"fmt"
	"time"

	"github.com/messagedb-go/messagedb/mdb/poll"
)

func ExampleBackoff() {
	strategy := poll.Backoff(10*time.Millisecond, time.Second, 2)
	for empty := range 10 {
		fmt.Println(strategy(poll.Seen{Empty: empty}))
	}
	// Output:
	// 10ms
	// 10ms
	// 20ms
	// 40ms
	// 80ms
	// 160ms
	// 320ms
	// 640ms
	// 1s
	// 1s
}
