// Package static has the Pods that the node runs from files, without the API: static Pods.
//
// Source reads the files of a directory, follows them by inotify, and tells who runs Pods which to run. Such a Pod is named after
// its node too, and its UID is a hash of what the file says: a file that says something else is another Pod. It refers to no
// object of the API, and runs before there is a server and while there is none.
//
// Mirrors shows these Pods in the API, each as a mirror Pod of the same name and a UID of its own, which the node writes when it
// has a Node object. Nothing that is done to the mirror reaches the Pod: what was deleted is made again.
package static
