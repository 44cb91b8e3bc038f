// Two runs that measure in turns, so that the states of the machine affect both alike.
#pragma once

#include <string>

namespace moesaic::bench {

/// Whose turn it is, passed back and forth through two named pipes: each run gets from the pipe that the other gives
/// to. Whoever starts the two puts a 't' into the pipe of the run that is to begin.
class Turns {
public:
    /// `pipes`: "GET,GIVE", the paths of two named pipes. Throws a usage error for what are none.
    explicit Turns(const std::string& pipes);
    Turns(const Turns&) = delete;
    Turns& operator=(const Turns&) = delete;
    /// The other run goes on alone.
    ~Turns();

    /// Sleeps until both runs are ready to measure and it is this one's turn; returns at once where the other has
    /// ended.
    void take();
    void pass();

private:
    void put(char message) const;

    int get_ = -1;
    int give_ = -1;
    bool announced_ = false;
    bool other_is_ready_ = false;
    bool other_has_ended_ = false;
    bool has_turn_ = false;
};

}  // namespace moesaic::bench
