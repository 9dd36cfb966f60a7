package mdbweb

import (
	"fmt"
	"net/url"
)

// to returns a link to a path with parameters: their names and values in turn. Those without a value are left out.
func (h *Handler) to(path string, params ...any) (string, error) {
	if len(params)%2 != 0 {
		return "", fmt.Errorf("mdbweb: a link to %s with %d parameters", path, len(params))
	}
	values := make(url.Values)
	for i := 0; i < len(params); i += 2 {
		value := params[i+1]
		if n, ok := value.(*int64); ok {
			value = ""
			if n != nil {
				value = *n
			}
		}
		if text := fmt.Sprint(value); text != "" {
			values.Set(fmt.Sprint(params[i]), text)
		}
	}
	link := h.config.prefix + path
	if len(values) > 0 {
		link += "?" + values.Encode()
	}
	return link, nil
}
