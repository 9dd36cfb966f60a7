package pgtest

import (
	"fmt"
	"sync"
)

// once runs a function once for each key. Unlike with sync.OnceValues, if t.FailNow
// ends the function, all other callers get an error.
type once struct {
	results sync.Map
}

type result struct {
	once  sync.Once
	value string
	err   error
}

func (o *once) do(key string, f func() (string, error)) (string, error) {
	v, _ := o.results.LoadOrStore(key, &result{
		err: fmt.Errorf("pgtest: the setup of %q has not returned: return its error instead of ending the test", key),
	})
	r := v.(*result)
	r.once.Do(func() { r.value, r.err = f() })

	return r.value, r.err
}
