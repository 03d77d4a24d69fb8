"""The subjects of invented texts, with facts and questions; facts.py assembles them.

A line is a fact, in one or several wordings separated by `|`; the lines below it that begin with `?` are questions for
it. All facts of a subject share their slots, so `{name}` is the same person in every line.
"""

from __future__ import annotations

SUBJECTS: dict[str, str] = {
    "person": """
{name} was born in {town} in {year}. | {name} comes from {town} and was born in {year}.
  ? Where was {name} born? | In what year was {name} born?
{name} works as a(n) {job} for {company}. | For some years {name} has been a(n) {job} at {company}.
  ? What is {name}'s job? | Who does {name} work for?
In the evenings {name} enjoys {hobby}. | The favourite pastime of {name} is {hobby}.
  ? What does {name} like to do in the evenings? | What is the favourite pastime of {name}?
{name} has {few} cousins who live in {country}. | {few} cousins of {name} live in {country}.
  ? How many cousins in {country} does {name} have? | Where do the cousins of {name} live?
At home {name} keeps a(n) {animal} called {first}. | {name} has a pet, a(n) {animal} with the name {first}.
  ? What is the name of {name}'s pet? | What kind of animal does {name} keep?
{name} never leaves the house without a(n) {color} {object}.
  ? What does {name} always take along? | Which colour is the {object} of {name}?
{name} lives at {n} {street}, above a shop. | The address of {name} is {n} {street}.
  ? What is {name}'s address? | In which street does {name} live?
In {year2}, {name} moved to {town2} {reason}.
  ? When did {name} move to {town2}? | Why did {name} move to {town2}?
""",
    "company": """
{company} was founded in {year} by {name}. | {name} started {company} in {year}.
  ? Who founded {company}? | When was {company} founded?
The head office of {company} is in {town}, at {n} {street}.
  ? Where is the head office of {company}? | In which street is the head office of {company}?
{company} sells mostly {product}s, and earns most in {month}.
  ? What does {company} mainly sell? | In which month does {company} earn most?
Today {big} people work for {company}. | {company} employs {big} people.
  ? How many people does {company} employ? | How large is the staff of {company}?
{name2} has led {department} since {year2}.
  ? Who leads {department}? | Since when has {name2} led {department}?
The company's new project, {project}, should be finished by {date}.
  ? What is the new project called? | When should the project {project} be finished?
Complaints go to {email}, and are answered within {few} days.
  ? Where should complaints be sent? | Within how many days are complaints answered?
Last year {company} opened a branch in {country} {reason}.
  ? In which country did {company} open a branch? | Why did {company} open a branch in {country}?
""",
    "town": """
{town} has about {big} inhabitants and lies beside a river in {country}.
  ? How many inhabitants does {town} have? | In which country is {town}?
The town hall of {town} was built of {material} in {year}.
  ? What is the town hall of {town} made of? | When was the town hall of {town} built?
The weekly market of {town} is held on {weekday} from {time}. | Every {weekday} at {time} the market of {town} opens.
  ? On which day is the market of {town}? | At what time does the market of {town} open?
Visitors come to {town} for its {event} in {month}.
  ? What do visitors come to {town} for? | In which month is the {event} of {town}?
The oldest tree of {town} is a(n) {plant}, planted by {name}.
  ? Which tree is the oldest in {town}? | Who planted the oldest tree of {town}?
People in {town} are known for their {food}.
  ? Which dish is {town} known for? | What do people in {town} like to cook?
A(n) {color} {vehicle} connects {town} and {town2} every {few} hours.
  ? How can one travel from {town} to {town2}? | What colour is the {vehicle} to {town2}?
The museum of {town}, on {street}, shows a collection of {object}s.
  ? What does the museum of {town} show? | On which street is the museum of {town}?
""",
    "event": """
The {event} takes place on {date} in {town}. | Come to {town} on {date} for the {event}!
  ? When is the {event}? | Where does the {event} take place?
Doors open at {time}; the first guest is {name}, a(n) {job}.
  ? At what time do the doors open? | Who is the first guest of the {event}?
A ticket costs {price}, and children under {few} enter free.
  ? How much is a ticket? | Up to which age do children enter free?
Lunch is served in the {room}: {food} and {food2}.
  ? What is served for lunch? | Where is lunch served?
{name2} looks after the guests and can be called at {phone}.
  ? Which number should guests call? | Who looks after the guests of the {event}?
In case of {weather} everything moves to the {room2}.
  ? Where does everything move in case of {weather}? | What happens if there is {weather}?
The winner receives a(n) {adj} {object}, given by {company}.
  ? What does the winner receive? | Who gives the prize?
Please bring a(n) {object2} and warm clothes.
  ? What should guests bring along?
""",
    "object": """
The {adj} {object} in the {room} belongs to {name}. | {name} is the owner of the {adj} {object} in the {room}.
  ? Who owns the {object} in the {room}? | In which room is {name}'s {object}?
It was made of {material} in {country}, around {year}.
  ? What is the {object} made of? | Around what year was the {object} made?
{first} {did} it on {weekday} {reason}.
  ? What did {first} do with it? | On which day did {first} have it?
An expert said that the {object} is worth {price}.
  ? How much is the {object} worth?
Inside it, somebody found a note with the word "{codeword}".
  ? Which word was on the note inside the {object}?
It stands {spot}, between a(n) {object2} and a(n) {object3}.
  ? Where does the {object} stand? | What does the {object} stand between?
Before that it was kept for {n} years in a(n) {color} box in {town}.
  ? In which town was the {object} kept before? | For how many years was the {object} kept in a box?
""",
    "trip": """
On the first day {first} took the {vehicle} to {town}.
  ? How did {first} travel to {town}? | Where did {first} go on the first day?
The journey lasted {few} hours because of {weather}.
  ? How long did the journey last? | Which weather slowed down the journey?
They stayed in a(n) {adj} guest house on {street}, for {price} a night.
  ? How much was a night in the guest house? | On which street was the guest house?
For dinner there was {food}, which {first} found excellent.
  ? What was there for dinner? | What did {first} think of the {food}?
On {weekday} they met {name}, a(n) {job} who speaks {language}.
  ? Whom did they meet on {weekday}? | Which language does {name} speak?
{first2} lost a(n) {color} {object} at the station of {town2}.
  ? What did {first2} lose? | Where did {first2} lose the {object}?
In the forest they saw a(n) {animal} under a(n) {plant}.
  ? Which animal did they see? | Under which plant was the {animal}?
They came home on {date}, {feeling} and with {n} photographs.
  ? When did they come home? | How many photographs did they bring home? | How did they feel when they came home?
""",
    "order": """
Order {code} was placed by {name} on {date}.
  ? Who placed order {code}? | When was order {code} placed?
It contains {few} {color} {product}s and a(n) {product2}.
  ? How many {product}s does the order contain? | Which colour do the {product}s have?
The total is {price}, paid by card.
  ? What is the total of the order?
The parcel is to be left {spot} if nobody is at home.
  ? Where should the parcel be left if nobody is at home?
Its tracking number is {code2}. | The carrier follows it under {code2}.
  ? What is the tracking number?
The parcel left the warehouse in {town} with the {vehicle} at {time}.
  ? From which town was the parcel sent? | When did the parcel leave the warehouse?
According to the customer the {product2} {issue}.
  ? What is wrong with the {product2}?
The refund was approved by {name2} of {department}.
  ? Who approved the refund? | Which department does {name2} belong to?
""",
    "meeting": """
The meeting about project {project} was held on {weekday} at {time}.
  ? Which project was the meeting about? | At what time was the meeting?
{name} chaired the meeting, and {name2} took notes.
  ? Who chaired the meeting? | Who took notes?
It was agreed to spend {price} on {product}s.
  ? How much will be spent on {product}s? | What will the money be spent on?
{name3} will call {company} before {date}.
  ? Who will call {company}? | Before which date must {company} be called?
The launch was moved to {month} {reason}.
  ? To which month was the launch moved? | Why was the launch moved?
{first}, from {department}, asked for {few} more desks.
  ? How many more desks were asked for? | Which department is {first} from?
The next meeting is in the {room}, on {date2}.
  ? Where is the next meeting? | When is the next meeting?
The password of the shared folder is now {codeword}{n}.
  ? What is the password of the shared folder?
""",
    "machine": """
Machine {code} stands in hall {few} and makes {product}s.
  ? In which hall does machine {code} stand? | What does machine {code} make?
Its last inspection, by {name}, was on {date}.
  ? When was the last inspection of machine {code}? | Who inspected machine {code}?
It must be oiled every {n} hours with the oil from the {color} can.
  ? How often must machine {code} be oiled? | Which colour is the can with the oil?
If lamp {few2} blinks, press the {color2} button and wait {n2} seconds.
  ? What should one do if lamp {few2} blinks? | How long should one wait after pressing the {color2} button?
Spare parts come from {company} and need {few3} weeks.
  ? Where do spare parts come from? | How long do spare parts need?
The operator's code is {pin}.
  ? What is the operator's code?
It uses {big} watts and weighs {big2} kilograms.
  ? How much does machine {code} weigh? | How many watts does machine {code} use?
In {month} it stood still for {n3} days {reason}.
  ? For how many days did the machine stand still? | Why did the machine stand still?
""",
    "recipe": """
For the {food} you need {big} grams of {ingredient} and {few} spoons of {ingredient2}.
  ? How much {ingredient} is needed? | How many spoons of {ingredient2} are needed?
{first} bakes it for {n} minutes at {few2}0 degrees above the usual heat.
  ? For how many minutes does {first} bake it?
Grandmother's secret was a little {ingredient3}, added last.
  ? What was grandmother's secret? | Which ingredient is added last?
It is served on a(n) {color} plate with {food2}.
  ? What is it served with? | What colour is the plate?
It keeps for {few3} days in the {room}.
  ? How long does it keep? | Where should it be kept?
The recipe comes from {country}, where {name} learned it in {year}.
  ? Where does the recipe come from? | Who learned the recipe in {country}?
Never use {ingredient4} in it: it would turn bitter.
  ? What must never be used, and why?
""",
}
FILLERS = (
    "Nothing else happened that {weekday}.",
    "{first} was {gerund} at the time, and noticed nothing.",
    "Outside there was {weather}, which is usual for {month}.",
    "Somebody in {department} later asked about it.",
    "The {room} was empty, apart from a(n) {adj} {object}.",
    "A(n) {animal} had been seen near {street} the day before.",
    "Most people agreed with that.",
    "It took longer than expected, {reason}.",
    "This was already mentioned in the report of {month}.",
    "{first} felt {feeling} about it.",
    "Nobody remembered who had {did} the {object}.",
    "The rest of the day was spent {gerund}.",
)
